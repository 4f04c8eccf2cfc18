//! The table of layouts: one row each. [`super`] defines the fields of a row.

use backbones::vit::{Initialization, Interpolation, Pooling, Position};

use super::rename::whole;
use super::torchvision::{CHILDREN, VIT};
use super::{ANY, Layout, Location, transformers};
use crate::architecture::Traits;
use crate::role::Role;

pub(super) const IMAGENET: Traits = Traits {
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    small_has_12_heads: false,
    small_stem_padded_by_2: false,
    interpolation: Interpolation::Antialiased,
    position: Position::Learned,
    initialization: Initialization::TruncatedNormal,
    pooling: Pooling::ClassToken,
    norm_epsilon: None,
    described: false,
};

/// Transformers' ViTs: its default epsilon, and positions interpolated without antialiasing.
const TRANSFORMERS: Traits = Traits {
    interpolation: Interpolation::Bicubic,
    norm_epsilon: Some(1e-12),
    described: true,
    ..IMAGENET
};

/// Transformers' DINOv2, whose default epsilon is the usual one.
const TRANSFORMERS_DINOV2: Traits = Traits {
    norm_epsilon: None,
    ..TRANSFORMERS
};

/// Heads of Transformers' models with a task, and of modules that hold such a model.
const TRANSFORMERS_HEADS: &[&str] = &[
    "classifier.*",
    "cls_classifier.*",
    "*pooler.*",
    "decoder.*",
    "*embeddings.mask_token",
    "head.*",
    "fc.*",
    "projector.*",
    "projection_head*",
    "predictor.*",
    "prototypes.*",
];

const DINO: Traits = Traits {
    interpolation: Interpolation::Offset,
    ..IMAGENET
};

/// Parts of DINOv2 that DINO and iBOT lack. Their heads are unreliable, because many teachers are saved
/// without one.
const NOT_DINO: &[&str] = &["dino_head.*", "backbone.mask_token", "backbone.register_tokens"];

/// DINO's head, by its last layer: no other method uses this name.
const DINO_HEAD: &str = "head.last_layer.*";

/// Paths of the weights of a single network: the root, or the keys that training scripts use.
const ALONE: &[&str] = &[
    "",
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "model/state_dict",
    // DeepSpeed.
    "module",
];

/// The same without `state_dict`, whose `backbone.*` belongs to a Lightning module.
const PLAIN: &[&str] = &["", "model", "model_state_dict", "net", "model/state_dict"];

/// Identifies such a list: its stem and its first block.
const SEQUENTIAL: &[&str] = &["0.weight", "4.0.conv1.weight"];

/// Heads, queues and similar tensors that Lightning modules of lightly and solo-learn store next to a
/// backbone.
const LIGHTNING: &[&str] = &[
    "projector.*",
    "projection_head*",
    "predictor.*",
    "prediction_head*",
    "prototypes.*",
    "classifier.*",
    "backbone.fc.*",
    "backbone.head.*",
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

/// Every known layout; a file matches one.
pub const LAYOUTS: &[Layout] = &[
    // torchvision's and timm's ResNets, and bare backbones of every method: DINO, Barlow Twins, VICReg, our own.
    Layout {
        name: "resnet",
        locations: &[
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: &["layer1.*"],
                forbidden: &["prototypes*", "projection_head*", DINO_HEAD],
            },
            // A Lightning module that uses this name for its network.
            Location {
                role: None,
                parents: &["state_dict"],
                prefixes: &["model.", "net."],
                required: &["*.layer1.*"],
                forbidden: &[],
            },
            // One that kept its classifier: solo-learn's have none.
            Location {
                role: None,
                parents: &["state_dict"],
                prefixes: &["backbone."],
                required: &["backbone.layer1.*", "backbone.fc.*"],
                forbidden: &[],
            },
        ],
        dropped: &["fc.*", "model.fc.*", "net.fc.*", "backbone.fc.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // timm's ViTs, DeiT, and bare backbones: DINO, MAE, iBOT, our own.
    Layout {
        name: "vit",
        locations: &[
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: &["blocks.#.*"],
                forbidden: &[
                    "mask_token",
                    "register_tokens",
                    "decoder_*",
                    "dist_token",
                    "blocks.#.#.*",
                    "fc_norm.*",
                    DINO_HEAD,
                ],
            },
            Location {
                role: None,
                parents: &["state_dict"],
                prefixes: &["model.", "net."],
                required: &["*.blocks.#.*"],
                forbidden: &[
                    "*.mask_token",
                    "*.register_tokens",
                    "*.decoder_*",
                    "*.dist_token",
                    "*.blocks.#.#.*",
                    "*.fc_norm.*",
                ],
            },
            // One that kept its classifier, as above.
            Location {
                role: None,
                parents: &["state_dict"],
                prefixes: &["backbone."],
                required: &["backbone.blocks.#.*", "backbone.head.*"],
                forbidden: &[
                    "*.mask_token",
                    "*.register_tokens",
                    "*.decoder_*",
                    "*.dist_token",
                    "*.blocks.#.#.*",
                    "*.fc_norm.*",
                ],
            },
        ],
        dropped: &[
            "head.*",
            "pre_logits.*",
            "model.head.*",
            "net.head.*",
            "backbone.head.*",
        ],
        renames: &[],
        traits: IMAGENET,
    },
    // The same with the norm behind the mean of the patches: timm's `global_pool="avg"`, and fine-tuned MAEs and
    // BEiTs.
    Layout {
        name: "vit_fc_norm",
        locations: &[
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: &["blocks.#.*", "fc_norm.*"],
                forbidden: &["mask_token", "register_tokens", "decoder_*", "dist_token"],
            },
            Location {
                role: None,
                parents: &["state_dict"],
                prefixes: &["model.", "net."],
                required: &["*.blocks.#.*", "*.fc_norm.*"],
                forbidden: &["*.mask_token", "*.register_tokens", "*.decoder_*", "*.dist_token"],
            },
        ],
        dropped: &["head.*", "*.head.*"],
        renames: &[whole("fc_norm.*", "norm.*")],
        traits: Traits {
            pooling: Pooling::MeanThenNorm,
            ..IMAGENET
        },
    },
    // torchvision's ViTs.
    Layout {
        name: "torchvision_vit",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[""],
            required: &["encoder.layers.encoder_layer_#.*"],
            forbidden: &[],
        }],
        dropped: &["heads.*"],
        renames: VIT,
        traits: Traits {
            interpolation: Interpolation::AlignedCorners,
            ..IMAGENET
        },
    },
    // MoCo v1 and v2, and PASS's CLD, whose two branches are `instDis` and `groupDis`.
    Layout {
        name: "moco",
        locations: &[
            Location {
                role: Some(Role::Student),
                parents: &["state_dict", ""],
                prefixes: &["encoder_q."],
                required: &["encoder_q.*"],
                forbidden: &[],
            },
            Location {
                role: Some(Role::Teacher),
                parents: &["state_dict", ""],
                prefixes: &["encoder_k."],
                required: &["encoder_k.*"],
                forbidden: &[],
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
        locations: &[
            Location {
                role: Some(Role::Student),
                parents: &["state_dict", ""],
                prefixes: &["base_encoder."],
                required: &["base_encoder.*"],
                forbidden: &[],
            },
            Location {
                role: Some(Role::Teacher),
                parents: &["state_dict", ""],
                prefixes: &["momentum_encoder."],
                required: &["momentum_encoder.*"],
                forbidden: &[],
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
    // SwAV and DeepCluster-v2: the official files are flat, those of runs nested. Their red channel's
    // deviation is 0.228.
    Layout {
        name: "swav",
        locations: &[Location {
            role: None,
            parents: &["state_dict", ""],
            prefixes: &[""],
            required: &["conv1.weight", "prototypes*"],
            forbidden: &[],
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
        locations: &[
            Location {
                role: Some(Role::Teacher),
                parents: &["teacher"],
                prefixes: &["backbone.", ""],
                required: &[],
                forbidden: NOT_DINO,
            },
            Location {
                role: Some(Role::Student),
                parents: &["student"],
                prefixes: &["backbone.", ""],
                required: &[],
                forbidden: NOT_DINO,
            },
            // One of the two alone, identified by its head: `torch.save(ckpt["teacher"])`.
            Location {
                role: None,
                parents: PLAIN,
                prefixes: &["backbone.", ""],
                required: &[DINO_HEAD],
                forbidden: NOT_DINO,
            },
        ],
        dropped: &["head.*", "masked_embed", "backbone.masked_embed"],
        renames: &[],
        traits: DINO,
    },
    // DINOv2's backbones, and its teacher checkpoints, whose blocks are in chunks.
    Layout {
        name: "dinov2",
        locations: &[
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: &["patch_embed.proj.weight", "mask_token"],
                forbidden: &["decoder_*"],
            },
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: &["patch_embed.proj.weight", "register_tokens"],
                forbidden: &["mask_token"],
            },
            Location {
                role: None,
                parents: &["teacher", "", "model"],
                prefixes: &["backbone."],
                required: &["dino_head.*"],
                forbidden: &[],
            },
            // The same without heads.
            Location {
                role: None,
                parents: &["teacher", "", "model"],
                prefixes: &["backbone."],
                required: &["backbone.mask_token"],
                forbidden: &["dino_head.*"],
            },
        ],
        dropped: &["mask_token", "backbone.mask_token", "dino_head.*", "ibot_head.*"],
        renames: &[
            whole("register_tokens", "reg_token"),
            whole("blocks.~.#.*", "blocks.#.*"),
        ],
        traits: DINO,
    },
    // MAE's pretraining checkpoints; its backbones alone are `vit`.
    Layout {
        name: "mae",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[""],
            required: &["patch_embed.proj.weight", "decoder_*"],
            forbidden: &[],
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
        locations: &[Location {
            role: None,
            parents: &["state_dict"],
            prefixes: &["encoder."],
            required: &["encoder.fc.*", "predictor.*"],
            forbidden: &[],
        }],
        dropped: &["encoder.fc.*", "predictor.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // Barlow Twins' and VICReg's own checkpoints.
    Layout {
        name: "barlow_twins",
        locations: &[Location {
            role: None,
            parents: &["model", "net"],
            prefixes: &["backbone."],
            required: &["projector.*"],
            forbidden: &[],
        }],
        dropped: &["projector.*", "bn.*"],
        renames: &[],
        traits: IMAGENET,
    },
    // VISSL: only the trunk; heads and the method's state are elsewhere in the file.
    Layout {
        name: "vissl",
        locations: &[Location {
            role: None,
            parents: &["classy_state_dict/base_model/model/trunk", "model_state_dict", ""],
            prefixes: &["_feature_blocks.", "base_model._feature_blocks."],
            required: &["*_feature_blocks.*"],
            forbidden: &[],
        }],
        dropped: &[],
        renames: &[],
        traits: IMAGENET,
    },
    // solo-learn's Lightning checkpoints, and other modules that name their network `backbone`.
    Layout {
        name: "solo_learn",
        locations: &[
            Location {
                role: Some(Role::Student),
                parents: &["state_dict"],
                prefixes: &["backbone.", "encoder."],
                required: &[],
                // A DINOv2 is not from solo-learn, and its positions need another interpolation.
                forbidden: &[
                    "encoder.fc.*",
                    "backbone.mask_token",
                    "backbone.fc.*",
                    "backbone.head.*",
                ],
            },
            // The same saved alone: its stem may be solo-learn's, so it is not a `backbone`.
            Location {
                role: Some(Role::Student),
                parents: &[""],
                prefixes: &["backbone."],
                required: &["projector.*"],
                forbidden: &[],
            },
            Location {
                role: Some(Role::Teacher),
                parents: &["state_dict", ""],
                prefixes: &["momentum_backbone.", "momentum_encoder."],
                required: &["projector.*"],
                forbidden: &[],
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
        locations: &[
            Location {
                role: Some(Role::Student),
                parents: &["state_dict", ""],
                prefixes: &["backbone.", "student_backbone."],
                required: &["*backbone.4.0.conv1.weight"],
                forbidden: &[],
            },
            Location {
                role: Some(Role::Student),
                parents: &["state_dict", ""],
                prefixes: &["student_backbone.", "student_backbone.vit.", "backbone.vit."],
                required: &[],
                forbidden: &["*backbone.4.0.conv1.weight"],
            },
            Location {
                role: Some(Role::Teacher),
                parents: &["state_dict", ""],
                prefixes: &["backbone_momentum.", "teacher_backbone."],
                required: &["*backbone*.4.0.conv1.weight"],
                forbidden: &[],
            },
            Location {
                role: Some(Role::Teacher),
                parents: &["state_dict", ""],
                prefixes: &[
                    "teacher_backbone.",
                    "teacher_backbone.vit.",
                    "backbone_momentum.vit.",
                ],
                required: &[],
                forbidden: &["*backbone*.4.0.conv1.weight"],
            },
        ],
        dropped: LIGHTNING,
        renames: CHILDREN,
        traits: IMAGENET,
    },
    // Modules of training scripts that name their network `backbone`: lightly's loops in plain PyTorch, and
    // teachers saved without their head.
    Layout {
        name: "backbone",
        locations: &[
            Location {
                role: Some(Role::Student),
                parents: PLAIN,
                prefixes: &["backbone."],
                required: &[],
                forbidden: &[
                    "projector.*",
                    DINO_HEAD,
                    "dino_head.*",
                    "backbone.mask_token",
                    "backbone.register_tokens",
                ],
            },
            Location {
                role: Some(Role::Teacher),
                parents: PLAIN,
                prefixes: &["backbone_momentum."],
                required: &["backbone.*"],
                forbidden: &["projector.*", DINO_HEAD],
            },
        ],
        dropped: LIGHTNING,
        renames: &[],
        traits: IMAGENET,
    },
    // `nn.Sequential(*list(resnet.children()))` alone, also in the form of lightly's docs.
    Layout {
        name: "sequential",
        locations: &[
            Location {
                role: None,
                parents: ALONE,
                prefixes: &[""],
                required: SEQUENTIAL,
                forbidden: &[],
            },
            Location {
                role: None,
                parents: &[
                    "resnet18_parameters",
                    "resnet34_parameters",
                    "resnet50_parameters",
                    "resnet101_parameters",
                ],
                prefixes: &[""],
                required: SEQUENTIAL,
                forbidden: &[],
            },
        ],
        dropped: &["9.*"],
        renames: CHILDREN,
        traits: IMAGENET,
    },
    // Hugging Face Transformers: models alone, and with a task's head in front of their names.
    Layout {
        name: "transformers_vit",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[ANY],
            required: &[
                "*embeddings.patch_embeddings.projection.weight",
                "*.#.layernorm_before.*",
            ],
            forbidden: &["*decoder.decoder_*"],
        }],
        dropped: TRANSFORMERS_HEADS,
        renames: transformers::VIT,
        traits: TRANSFORMERS,
    },
    Layout {
        name: "transformers_vit_mae",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[ANY],
            required: &[
                "*embeddings.patch_embeddings.projection.weight",
                "*.#.layernorm_before.*",
                "*decoder.decoder_*",
            ],
            forbidden: &[],
        }],
        dropped: TRANSFORMERS_HEADS,
        renames: transformers::VIT,
        traits: Traits {
            position: Position::SineCosine,
            initialization: Initialization::Mae,
            ..TRANSFORMERS
        },
    },
    Layout {
        name: "transformers_dinov2",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[ANY],
            required: &[
                "*embeddings.patch_embeddings.projection.weight",
                "*encoder.layer.#.norm1.*",
            ],
            forbidden: &["*embeddings.register_tokens"],
        }],
        dropped: TRANSFORMERS_HEADS,
        renames: transformers::DINOV2,
        traits: TRANSFORMERS_DINOV2,
    },
    Layout {
        name: "transformers_dinov2_with_registers",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[ANY],
            required: &[
                "*embeddings.patch_embeddings.projection.weight",
                "*encoder.layer.#.norm1.*",
                "*embeddings.register_tokens",
            ],
            forbidden: &[],
        }],
        dropped: TRANSFORMERS_HEADS,
        renames: transformers::DINOV2,
        traits: Traits {
            interpolation: Interpolation::Antialiased,
            ..TRANSFORMERS_DINOV2
        },
    },
    Layout {
        name: "transformers_resnet",
        locations: &[Location {
            role: None,
            parents: ALONE,
            prefixes: &[ANY],
            required: &[
                "*embedder.embedder.convolution.weight",
                "*encoder.stages.#.layers.#.layer.*",
            ],
            forbidden: &[],
        }],
        dropped: TRANSFORMERS_HEADS,
        renames: transformers::RESNET,
        traits: Traits {
            norm_epsilon: None,
            ..TRANSFORMERS
        },
    },
];
