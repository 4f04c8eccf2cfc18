//! What to cite: papers, and those of the networks.

use std::fmt::{Display, Formatter};

use crate::BackboneConfig;

/// A paper to cite. Displayed as authors, title and year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paper {
    /// Last names.
    pub authors: &'static str,
    /// Its title.
    pub title: &'static str,
    /// When it first appeared.
    pub year: u32,
    /// Its number on arXiv.
    pub arxiv: &'static str,
}

impl Paper {
    /// Its page on arXiv.
    pub fn url(&self) -> String {
        format!("https://arxiv.org/abs/{}", self.arxiv)
    }
}

impl Display for Paper {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}, {}, {}", self.authors, self.title, self.year)
    }
}

/// Residual networks.
pub const RESNET: Paper = Paper {
    authors: "He, Zhang, Ren, Sun",
    title: "Deep Residual Learning for Image Recognition",
    year: 2015,
    arxiv: "1512.03385",
};

/// Vision transformers.
pub const VIT: Paper = Paper {
    authors: "Dosovitskiy et al.",
    title: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    year: 2020,
    arxiv: "2010.11929",
};

/// Register tokens.
pub const REGISTERS: Paper = Paper {
    authors: "Darcet, Oquab, Mairal, Bojanowski",
    title: "Vision Transformers Need Registers",
    year: 2023,
    arxiv: "2309.16588",
};

impl BackboneConfig {
    /// What to cite for the network.
    pub fn papers(&self) -> &'static [Paper] {
        match self {
            Self::Resnet(_) => &[RESNET],
            Self::Vit(config) if config.registers > 0 => &[VIT, REGISTERS],
            Self::Vit(_) => &[VIT],
        }
    }
}
