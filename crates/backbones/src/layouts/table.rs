//! The table of layouts: one row each. What a row means: [`super`].

use super::{Door, Layout, Part, Traits};
use crate::vit::{Initialization, Interpolation, Position};

pub(super) const IMAGENET: Traits = Traits {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    small_has_12_heads: false,
    small_stem_padded_by_2: false,
    interpolation: Interpolation::Antialiased,
    position: Position::Learned,
    initialization: Initialization::TruncatedNormal,
};

const DINO: Traits = Traits {
    interpolation: Interpolation::Offset,
    ..IMAGENET
};

/// What DINOv2 has and DINO and iBOT have not. Their heads are no sign of them: many save a teacher without its head.
const NOT_DINO: &[&str] = &["dino_head.*", "backbone.mask_token", "backbone.register_tokens"];

/// DINO's head, by its last layer: no other method's is called so.
const DINO_HEAD: &str = "head.last_layer.*";

/// Where weights of one network lie alone: at the root, or where training scripts put them.
const ALONE: &[&str] = &[
    "",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "model/state_dict",
];

/// The same but for `state_dict`, whose `backbone.*` is a Lightning module's.
const PLAIN: &[&str] = &["", "model", "model_state_dict", "net", "model/state_dict"];

/// torchvision's children in `nn.Sequential(*list(resnet.children()))`: numbers for names.
pub(super) const CHILDREN: &[(&str, &str)] = &[
    ("0.weight", "conv1.weight"),
    ("1.*", "bn1.*"),
    ("4.*", "layer1.*"),
    ("5.*", "layer2.*"),
    ("6.*", "layer3.*"),
    ("7.*", "layer4.*"),
];

/// What such a list is known by: its stem and its first block.
const SEQUENTIAL: &[&str] = &["0.weight", "4.0.conv1.weight"];

/// Heads, queues and the like that Lightning modules of lightly and solo-learn keep beside a backbone.
const LIGHTNING: &[&str] = &[
    "projector.*",
    "projection_head*",
    "predictor.*",
    "prediction_head*",
    "prototypes.*",
    "classifier.*",
    "online_classifier.*",
    "head.*",
    "student_head.*",
    "teacher_head.*",
    "momentum_projector.*",
    "momentum_classifier.*",
    "momentum_head.*",
    "queue",
    "queue_ptr",
    "criterion.*",
    "dino_loss_func.*",
    "*backbone.mask_token",
    "mask_token",
    "decoder.*",
];

/// Every known layout; a file fits one.
pub const LAYOUTS: &[Layout] = &[
    // torchvision's and timm's ResNets, and bare backbones of every method: DINO, Barlow Twins, VICReg, our own.
    Layout {
        name: "resnet",
        doors: &[
            Door {
                part: None,
                tops: ALONE,
                prefixes: &[""],
                marks: &["layer1.*"],
                absent: &["prototypes*", "projection_head*", DINO_HEAD],
            },
            // A Lightning module that calls its network so.
            Door {
                part: None,
                tops: &["state_dict"],
                prefixes: &["model.", "net."],
                marks: &["*.layer1.*"],
                absent: &[],
            },
        ],
        dropped: &["fc.*", "model.fc.*", "net.fc.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // timm's ViTs, DeiT, and bare backbones: DINO, MAE, iBOT, our own.
    Layout {
        name: "vit",
        doors: &[
            Door {
                part: None,
                tops: ALONE,
                prefixes: &[""],
                marks: &["blocks.#.*"],
                absent: &[
                    "mask_token",
                    "register_tokens",
                    "decoder_*",
                    "dist_token",
                    "blocks.#.#.*",
                    DINO_HEAD,
                ],
            },
            Door {
                part: None,
                tops: &["state_dict"],
                prefixes: &["model.", "net."],
                marks: &["*.blocks.#.*"],
                absent: &[
                    "*.mask_token",
                    "*.register_tokens",
                    "*.decoder_*",
                    "*.dist_token",
                    "*.blocks.#.#.*",
                ],
            },
        ],
        dropped: &["head.*", "pre_logits.*", "model.head.*", "net.head.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // torchvision's ViTs.
    Layout {
        name: "torchvision_vit",
        doors: &[Door {
            part: None,
            tops: ALONE,
            prefixes: &[""],
            marks: &["encoder.layers.encoder_layer_#.*"],
            absent: &[],
        }],
        dropped: &["heads.*"],
        renames: TORCHVISION_VIT,
        traits: Traits {
            interpolation: Interpolation::AlignedCorners,
            ..IMAGENET
        },
    },
    // MoCo v1 and v2, and PASS's CLD, whose two branches are `instDis` and `groupDis`.
    Layout {
        name: "moco",
        doors: &[
            Door {
                part: Some(Part::Student),
                tops: &["state_dict", ""],
                prefixes: &["encoder_q."],
                marks: &["encoder_q.*"],
                absent: &[],
            },
            Door {
                part: Some(Part::Teacher),
                tops: &["state_dict", ""],
                prefixes: &["encoder_k."],
                marks: &["encoder_k.*"],
                absent: &[],
            },
        ],
        dropped: &[
            "encoder_?.fc.*",
            "encoder_?.instDis.*",
            "encoder_?.groupDis.*",
            "queue",
            "queue_ptr",
        ],
        renames: &[],
        traits: IMAGENET,
    },
    Layout {
        name: "moco_v3",
        doors: &[
            Door {
                part: Some(Part::Student),
                tops: &["state_dict", ""],
                prefixes: &["base_encoder."],
                marks: &["base_encoder.*"],
                absent: &[],
            },
            Door {
                part: Some(Part::Teacher),
                tops: &["state_dict", ""],
                prefixes: &["momentum_encoder."],
                marks: &["momentum_encoder.*"],
                absent: &[],
            },
        ],
        dropped: &[
            "base_encoder.head.*",
            "base_encoder.fc.*",
            "momentum_encoder.head.*",
            "momentum_encoder.fc.*",
            "predictor.*",
        ],
        renames: &[],
        traits: Traits {
            small_has_12_heads: true,
            position: Position::SineCosine,
            initialization: Initialization::MocoV3,
            ..IMAGENET
        },
    },
    // SwAV and DeepCluster-v2: the official files are flat, those of runs nested. Their red's deviation is 0.228.
    Layout {
        name: "swav",
        doors: &[Door {
            part: None,
            tops: &["state_dict", ""],
            prefixes: &[""],
            marks: &["conv1.weight", "prototypes*"],
            absent: &[],
        }],
        dropped: &["projection_head.*", "prototypes.*"],
        renames: &[],
        traits: Traits {
            std: [0.228, 0.224, 0.225],
            ..IMAGENET
        },
    },
    // DINO and iBOT. Runs before May 2021, PASS's among them, have no `backbone.` on ViTs.
    Layout {
        name: "dino",
        doors: &[
            Door {
                part: Some(Part::Teacher),
                tops: &["teacher"],
                prefixes: &["backbone.", ""],
                marks: &[],
                absent: NOT_DINO,
            },
            Door {
                part: Some(Part::Student),
                tops: &["student"],
                prefixes: &["backbone.", ""],
                marks: &[],
                absent: NOT_DINO,
            },
            // One of the two alone, by its head: `torch.save(ckpt["teacher"])`.
            Door {
                part: None,
                tops: PLAIN,
                prefixes: &["backbone.", ""],
                marks: &[DINO_HEAD],
                absent: NOT_DINO,
            },
        ],
        dropped: &["head.*", "masked_embed", "backbone.masked_embed"],
        renames: &[],
        traits: DINO,
    },
    // DINOv2's backbones, and its teacher checkpoints, whose blocks are in chunks.
    Layout {
        name: "dinov2",
        doors: &[
            Door {
                part: None,
                tops: ALONE,
                prefixes: &[""],
                marks: &["patch_embed.proj.weight", "mask_token"],
                absent: &["decoder_*"],
            },
            Door {
                part: None,
                tops: ALONE,
                prefixes: &[""],
                marks: &["patch_embed.proj.weight", "register_tokens"],
                absent: &["mask_token"],
            },
            Door {
                part: None,
                tops: &["teacher", "", "model"],
                prefixes: &["backbone."],
                marks: &["dino_head.*"],
                absent: &[],
            },
            // The same without heads.
            Door {
                part: None,
                tops: &["teacher", "", "model"],
                prefixes: &["backbone."],
                marks: &["backbone.mask_token"],
                absent: &["dino_head.*"],
            },
        ],
        dropped: &["mask_token", "backbone.mask_token", "dino_head.*", "ibot_head.*"],
        renames: &[("register_tokens", "reg_token"), ("blocks.~.#.*", "blocks.#.*")],
        traits: DINO,
    },
    // MAE's pretraining checkpoints; its backbones alone are `vit`.
    Layout {
        name: "mae",
        doors: &[Door {
            part: None,
            tops: ALONE,
            prefixes: &[""],
            marks: &["patch_embed.proj.weight", "decoder_*"],
            absent: &[],
        }],
        dropped: &["mask_token", "decoder_*"],
        renames: &[],
        traits: Traits {
            interpolation: Interpolation::Bicubic,
            position: Position::SineCosine,
            initialization: Initialization::Mae,
            ..IMAGENET
        },
    },
    Layout {
        name: "simsiam",
        doors: &[Door {
            part: None,
            tops: &["state_dict"],
            prefixes: &["encoder."],
            marks: &["encoder.fc.*", "predictor.*"],
            absent: &[],
        }],
        dropped: &["encoder.fc.*", "predictor.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // Barlow Twins' and VICReg's own checkpoints.
    Layout {
        name: "barlow_twins",
        doors: &[Door {
            part: None,
            tops: &["model", "net"],
            prefixes: &["backbone."],
            marks: &["projector.*"],
            absent: &[],
        }],
        dropped: &["projector.*", "bn.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // VISSL: the trunk alone; heads and the method's state lie elsewhere in the file.
    Layout {
        name: "vissl",
        doors: &[Door {
            part: None,
            tops: &["classy_state_dict/base_model/model/trunk", "model_state_dict", ""],
            prefixes: &["_feature_blocks.", "base_model._feature_blocks."],
            marks: &["*_feature_blocks.*"],
            absent: &[],
        }],
        dropped: &[],
        renames: &[],
        traits: IMAGENET,
    },
    // solo-learn's Lightning checkpoints, and other modules that call their network `backbone`.
    Layout {
        name: "solo_learn",
        doors: &[
            Door {
                part: Some(Part::Student),
                tops: &["state_dict"],
                prefixes: &["backbone.", "encoder."],
                marks: &[],
                // A DINOv2 is none of solo-learn's, and its positions are interpolated otherwise.
                absent: &["encoder.fc.*", "backbone.mask_token"],
            },
            // The same saved alone: its stem may be solo-learn's, so it is no `backbone`.
            Door {
                part: Some(Part::Student),
                tops: &[""],
                prefixes: &["backbone."],
                marks: &["projector.*"],
                absent: &[],
            },
            Door {
                part: Some(Part::Teacher),
                tops: &["state_dict", ""],
                prefixes: &["momentum_backbone.", "momentum_encoder."],
                marks: &["projector.*"],
                absent: &[],
            },
        ],
        dropped: LIGHTNING,
        renames: &[],
        traits: Traits {
            small_stem_padded_by_2: true,
            ..IMAGENET
        },
    },
    // lightly's examples, whose backbone is `nn.Sequential(*list(resnet.children())[:-1])`, a network under its usual
    // names, or a ViT of timm's in `vit` (`MaskedVisionTransformerTIMM`).
    Layout {
        name: "lightly",
        doors: &[
            Door {
                part: Some(Part::Student),
                tops: &["state_dict", ""],
                prefixes: &["backbone.", "student_backbone."],
                marks: &["*backbone.4.0.conv1.weight"],
                absent: &[],
            },
            Door {
                part: Some(Part::Student),
                tops: &["state_dict", ""],
                prefixes: &["student_backbone.", "student_backbone.vit.", "backbone.vit."],
                marks: &[],
                absent: &["*backbone.4.0.conv1.weight"],
            },
            Door {
                part: Some(Part::Teacher),
                tops: &["state_dict", ""],
                prefixes: &["backbone_momentum.", "teacher_backbone."],
                marks: &["*backbone*.4.0.conv1.weight"],
                absent: &[],
            },
            Door {
                part: Some(Part::Teacher),
                tops: &["state_dict", ""],
                prefixes: &[
                    "teacher_backbone.",
                    "teacher_backbone.vit.",
                    "backbone_momentum.vit.",
                ],
                marks: &[],
                absent: &["*backbone*.4.0.conv1.weight"],
            },
        ],
        dropped: LIGHTNING,
        renames: CHILDREN,
        traits: IMAGENET,
    },
    // Modules of training scripts that call their network `backbone`: lightly's loops in plain PyTorch, a teacher that
    // was saved without its head.
    Layout {
        name: "backbone",
        doors: &[
            Door {
                part: Some(Part::Student),
                tops: PLAIN,
                prefixes: &["backbone."],
                marks: &[],
                absent: &[
                    "projector.*",
                    DINO_HEAD,
                    "dino_head.*",
                    "backbone.mask_token",
                    "backbone.register_tokens",
                ],
            },
            Door {
                part: Some(Part::Teacher),
                tops: PLAIN,
                prefixes: &["backbone_momentum."],
                marks: &["backbone.*"],
                absent: &["projector.*", DINO_HEAD],
            },
        ],
        dropped: LIGHTNING,
        renames: &[],
        traits: IMAGENET,
    },
    // `nn.Sequential(*list(resnet.children()))` alone, also as lightly's docs save it.
    Layout {
        name: "sequential",
        doors: &[
            Door {
                part: None,
                tops: ALONE,
                prefixes: &[""],
                marks: SEQUENTIAL,
                absent: &[],
            },
            Door {
                part: None,
                tops: &[
                    "resnet18_parameters",
                    "resnet34_parameters",
                    "resnet50_parameters",
                    "resnet101_parameters",
                ],
                prefixes: &[""],
                marks: SEQUENTIAL,
                absent: &[],
            },
        ],
        dropped: &["9.*"],
        renames: CHILDREN,
        traits: IMAGENET,
    },
];

/// torchvision's names of a ViT's parameters, and timm's.
pub(crate) const TORCHVISION_VIT: &[(&str, &str)] = &[
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
