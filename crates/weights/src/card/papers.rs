//! The papers of methods and networks, to cite.

use backbones::BackboneConfig;

use crate::encoder_info::EncoderInfo;

/// A paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper {
    /// Authors, title and year.
    pub title: &'static str,
    /// Its number at arxiv.org.
    pub arxiv: &'static str,
}

/// Methods by their names in configs, which are also those of layouts, and their papers.
const METHODS: &[(&str, &[Paper])] = &[
    (
        "moco",
        &[
            paper(
                "He et al., Momentum contrast for unsupervised visual representation learning, 2020",
                "1911.05722",
            ),
            paper(
                "Chen et al., Improved baselines with momentum contrastive learning, 2020",
                "2003.04297",
            ),
        ],
    ),
    (
        "moco_cld",
        &[paper(
            "Wang, Liu, Yu, Unsupervised feature learning by cross-level instance-group discrimination, 2021",
            "2008.03813",
        )],
    ),
    (
        "moco_v3",
        &[paper(
            "Chen, Xie, He, An empirical study of training self-supervised vision transformers, 2021",
            "2104.02057",
        )],
    ),
    (
        "mae",
        &[paper(
            "He et al., Masked autoencoders are scalable vision learners, 2022",
            "2111.06377",
        )],
    ),
    (
        "simclr",
        &[paper(
            "Chen et al., A simple framework for contrastive learning of visual representations, 2020",
            "2002.05709",
        )],
    ),
    (
        "byol",
        &[paper(
            "Grill et al., Bootstrap your own latent, 2020",
            "2006.07733",
        )],
    ),
    (
        "simsiam",
        &[paper(
            "Chen, He, Exploring simple siamese representation learning, 2021",
            "2011.10566",
        )],
    ),
    (
        "barlow_twins",
        &[paper(
            "Zbontar et al., Barlow Twins: self-supervised learning via redundancy reduction, 2021",
            "2103.03230",
        )],
    ),
    (
        "vicreg",
        &[paper(
            "Bardes, Ponce, LeCun, VICReg: variance-invariance-covariance regularization, 2022",
            "2105.04906",
        )],
    ),
    (
        "dino",
        &[paper(
            "Caron et al., Emerging properties in self-supervised vision transformers, 2021",
            "2104.14294",
        )],
    ),
    (
        "dinov2",
        &[paper(
            "Oquab et al., DINOv2: learning robust visual features without supervision, 2023",
            "2304.07193",
        )],
    ),
    (
        "ibot",
        &[paper(
            "Zhou et al., iBOT: image BERT pre-training with online tokenizer, 2022",
            "2111.07832",
        )],
    ),
    (
        "swav",
        &[paper(
            "Caron et al., Unsupervised learning of visual features by contrasting cluster assignments, 2020",
            "2006.09882",
        )],
    ),
];

const RESNET: Paper = paper(
    "He et al., Deep residual learning for image recognition, 2016",
    "1512.03385",
);
const VIT: Paper = paper(
    "Dosovitskiy et al., An image is worth 16x16 words, 2021",
    "2010.11929",
);
const REGISTERS: Paper = paper(
    "Darcet et al., Vision transformers need registers, 2024",
    "2309.16588",
);

const fn paper(title: &'static str, arxiv: &'static str) -> Paper {
    Paper { title, arxiv }
}

/// The papers of a method; empty if it is unknown.
pub fn paper_of_method(method: &str) -> &'static [Paper] {
    let row = METHODS.iter().find(|(name, _)| *name == method);
    row.map_or(&[], |(_, papers)| papers)
}

/// The papers behind an encoder: its method's and its network's.
pub(super) fn to_cite(info: &EncoderInfo) -> Vec<Paper> {
    let mut papers = paper_of_method(&info.method).to_vec();
    match &info.architecture {
        BackboneConfig::Resnet(_) => papers.push(RESNET),
        BackboneConfig::Vit(config) => {
            papers.push(VIT);
            if config.registers > 0 {
                papers.push(REGISTERS);
            }
        }
    }
    papers
}
