//! torchvision's other names: of a ViT's parameters, and of a ResNet's children in a list.

use super::rename::{Rename, whole};

/// torchvision's names of a ViT's parameters, paired with timm's.
pub(crate) const VIT: &[Rename] = &[
    whole("class_token", "cls_token"),
    whole("conv_proj.*", "patch_embed.proj.*"),
    whole("encoder.pos_embedding", "pos_embed"),
    whole("encoder.layers.encoder_layer_#.ln_1.*", "blocks.#.norm1.*"),
    whole(
        "encoder.layers.encoder_layer_#.self_attention.in_proj_weight",
        "blocks.#.attn.qkv.weight",
    ),
    whole(
        "encoder.layers.encoder_layer_#.self_attention.in_proj_bias",
        "blocks.#.attn.qkv.bias",
    ),
    whole(
        "encoder.layers.encoder_layer_#.self_attention.out_proj.*",
        "blocks.#.attn.proj.*",
    ),
    whole("encoder.layers.encoder_layer_#.ln_2.*", "blocks.#.norm2.*"),
    whole("encoder.layers.encoder_layer_#.mlp.0.*", "blocks.#.mlp.fc1.*"),
    whole("encoder.layers.encoder_layer_#.mlp.3.*", "blocks.#.mlp.fc2.*"),
    whole("encoder.ln.*", "norm.*"),
];

/// torchvision's children in `nn.Sequential(*list(resnet.children()))`: indices instead of names.
pub(crate) const CHILDREN: &[Rename] = &[
    whole("0.weight", "conv1.weight"),
    whole("1.*", "bn1.*"),
    whole("4.*", "layer1.*"),
    whole("5.*", "layer2.*"),
    whole("6.*", "layer3.*"),
    whole("7.*", "layer4.*"),
];
