//! Hugging Face Transformers' names of ViTs, DINOv2 and ResNets, paired with timm's and torchvision's.
//!
//! The names on disk come first and are the same in versions 4 and 5. Version 5 has other names in memory, which
//! `torch.save(model.state_dict())` writes: they are read too.

use super::rename::{Rename, third, whole};

/// Of `ViTModel`, `ViTMSNModel` and `ViTMAEModel`.
pub(crate) const VIT: &[Rename] = &[
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.position_embeddings", "pos_embed"),
    whole("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    whole("encoder.layer.#.layernorm_before.*", "blocks.#.norm1.*"),
    third(
        0,
        "encoder.layer.#.attention.attention.query.*",
        "blocks.#.attn.qkv.*",
    ),
    third(
        1,
        "encoder.layer.#.attention.attention.key.*",
        "blocks.#.attn.qkv.*",
    ),
    third(
        2,
        "encoder.layer.#.attention.attention.value.*",
        "blocks.#.attn.qkv.*",
    ),
    whole("encoder.layer.#.attention.output.dense.*", "blocks.#.attn.proj.*"),
    whole("encoder.layer.#.layernorm_after.*", "blocks.#.norm2.*"),
    whole("encoder.layer.#.intermediate.dense.*", "blocks.#.mlp.fc1.*"),
    whole("encoder.layer.#.output.dense.*", "blocks.#.mlp.fc2.*"),
    whole("layernorm.*", "norm.*"),
    // In memory since version 5.
    whole("layers.#.layernorm_before.*", "blocks.#.norm1.*"),
    third(0, "layers.#.attention.q_proj.*", "blocks.#.attn.qkv.*"),
    third(1, "layers.#.attention.k_proj.*", "blocks.#.attn.qkv.*"),
    third(2, "layers.#.attention.v_proj.*", "blocks.#.attn.qkv.*"),
    whole("layers.#.attention.o_proj.*", "blocks.#.attn.proj.*"),
    whole("layers.#.layernorm_after.*", "blocks.#.norm2.*"),
    whole("layers.#.mlp.fc1.*", "blocks.#.mlp.fc1.*"),
    whole("layers.#.mlp.fc2.*", "blocks.#.mlp.fc2.*"),
];

/// Of `Dinov2Model` and `Dinov2WithRegistersModel`.
pub(crate) const DINOV2: &[Rename] = &[
    whole("embeddings.cls_token", "cls_token"),
    whole("embeddings.register_tokens", "reg_token"),
    whole("embeddings.position_embeddings", "pos_embed"),
    whole("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    whole("encoder.layer.#.norm1.*", "blocks.#.norm1.*"),
    third(
        0,
        "encoder.layer.#.attention.attention.query.*",
        "blocks.#.attn.qkv.*",
    ),
    third(
        1,
        "encoder.layer.#.attention.attention.key.*",
        "blocks.#.attn.qkv.*",
    ),
    third(
        2,
        "encoder.layer.#.attention.attention.value.*",
        "blocks.#.attn.qkv.*",
    ),
    whole("encoder.layer.#.attention.output.dense.*", "blocks.#.attn.proj.*"),
    whole("encoder.layer.#.layer_scale1.lambda1", "blocks.#.ls1.gamma"),
    whole("encoder.layer.#.norm2.*", "blocks.#.norm2.*"),
    whole("encoder.layer.#.mlp.fc1.*", "blocks.#.mlp.fc1.*"),
    whole("encoder.layer.#.mlp.fc2.*", "blocks.#.mlp.fc2.*"),
    whole("encoder.layer.#.layer_scale2.lambda1", "blocks.#.ls2.gamma"),
    whole("layernorm.*", "norm.*"),
    // In memory since version 5.
    third(0, "encoder.layer.#.attention.q_proj.*", "blocks.#.attn.qkv.*"),
    third(1, "encoder.layer.#.attention.k_proj.*", "blocks.#.attn.qkv.*"),
    third(2, "encoder.layer.#.attention.v_proj.*", "blocks.#.attn.qkv.*"),
    whole("encoder.layer.#.attention.o_proj.*", "blocks.#.attn.proj.*"),
];

/// The pairs of one of the four stages of `ResNetModel`: its number from 0, and ours.
macro_rules! stages {
    ($($theirs:literal $ours:literal),*) => {
        &[
            whole("embedder.embedder.convolution.*", "conv1.*"),
            whole("embedder.embedder.normalization.*", "bn1.*"),
            $(
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.0.convolution.*"), concat!($ours, ".#.conv1.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.0.normalization.*"), concat!($ours, ".#.bn1.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.1.convolution.*"), concat!($ours, ".#.conv2.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.1.normalization.*"), concat!($ours, ".#.bn2.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.2.convolution.*"), concat!($ours, ".#.conv3.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.layer.2.normalization.*"), concat!($ours, ".#.bn3.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.shortcut.convolution.*"), concat!($ours, ".#.downsample.0.*")),
                whole(concat!("encoder.stages.", $theirs, ".layers.#.shortcut.normalization.*"), concat!($ours, ".#.downsample.1.*")),
            )*
        ]
    };
}

/// Of `ResNetModel`.
pub(crate) const RESNET: &[Rename] = stages!("0" "layer1", "1" "layer2", "2" "layer3", "3" "layer4");
