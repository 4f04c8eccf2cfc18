//! torchvision's other names: of a ViT's parameters, and of a ResNet's children in a list.

/// torchvision's names of a ViT's parameters, paired with timm's.
pub(crate) const VIT: &[(&str, &str)] = &[
    ("class_token", "cls_token"),
    ("conv_proj.*", "patch_embed.proj.*"),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_#.ln_1.*", "blocks.#.norm1.*"),
    (
        "encoder.layers.encoder_layer_#.self_attention.in_proj_weight",
        "blocks.#.attn.qkv.weight",
    ),
    (
        "encoder.layers.encoder_layer_#.self_attention.in_proj_bias",
        "blocks.#.attn.qkv.bias",
    ),
    (
        "encoder.layers.encoder_layer_#.self_attention.out_proj.*",
        "blocks.#.attn.proj.*",
    ),
    ("encoder.layers.encoder_layer_#.ln_2.*", "blocks.#.norm2.*"),
    ("encoder.layers.encoder_layer_#.mlp.0.*", "blocks.#.mlp.fc1.*"),
    ("encoder.layers.encoder_layer_#.mlp.3.*", "blocks.#.mlp.fc2.*"),
    ("encoder.ln.*", "norm.*"),
];

/// torchvision's children in `nn.Sequential(*list(resnet.children()))`: indices instead of names.
pub(crate) const CHILDREN: &[(&str, &str)] = &[
    ("0.weight", "conv1.weight"),
    ("1.*", "bn1.*"),
    ("4.*", "layer1.*"),
    ("5.*", "layer2.*"),
    ("6.*", "layer3.*"),
    ("7.*", "layer4.*"),
];
