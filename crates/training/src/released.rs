//! Names of a method's parameters in released checkpoints, besides the backbone's: heads, queues, centers.

/// A parameter of a method, and where checkpoints that its authors or others released have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Its path in the student or the state: `encoder.head.0.weight`.
    pub ours: String,
    /// The first key of its path in the file; empty: any.
    pub within: &'static str,
    /// The end of its path in the file: `encoder_q.fc.0.weight`.
    pub theirs: String,
    /// Whether the file has its rows as columns.
    pub transposed: bool,
}

impl Released {
    /// Weight and bias of a linear layer, or scale and shift of a norm.
    pub fn layer(ours: &str, within: &'static str, theirs: &str) -> Vec<Self> {
        let parameter = |name: &str| Self {
            ours: format!("{ours}.{name}"),
            within,
            theirs: format!("{theirs}.{name}"),
            transposed: false,
        };
        vec![parameter("weight"), parameter("bias")]
    }

    /// Whether a file's path is this parameter's.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        let is_end = path
            .strip_suffix(self.theirs.as_str())
            .is_some_and(|before| before.is_empty() || before.ends_with('.'));
        let is_within = self.within.is_empty() || path.split('.').next() == Some(self.within);
        is_end && is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_by_their_ends() {
        let [weight, bias] = &Released::layer("head.0", "", "encoder_q.fc.0")[..] else {
            panic!()
        };
        assert_eq!(
            (weight.ours.as_str(), bias.ours.as_str()),
            ("head.0.weight", "head.0.bias")
        );
        assert!(weight.is_at("state_dict.module.encoder_q.fc.0.weight"));
        assert!(weight.is_at("encoder_q.fc.0.weight"));
        assert!(!weight.is_at("state_dict.module.other_encoder_q.fc.0.weight"));
        assert!(!weight.is_at("state_dict.module.encoder_q.fc.0.bias"));
        let student = &Released::layer("head.0", "student", "head.mlp.0")[0];
        assert!(student.is_at("student.module.head.mlp.0.weight"));
        assert!(!student.is_at("teacher.head.mlp.0.weight"));
    }
}
