//! How far people have labeled: the count that the stage `review` waits for, that `status` shows and that an
//! error carries.

use serde::Serialize;

/// How far people have labeled the photos of the stage `review`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Labeling {
    /// Photos that the stage before kept.
    pub photos: u64,
    /// Photos with as many labels as the config requires.
    #[serde(rename = "labelled")]
    pub labeled: u64,
    /// Labels that are missing.
    pub labels_open: u64,
    /// Photos that have one label and need a second one, by another person.
    pub wait_for_second: u64,
    /// People who labeled one of these photos.
    pub annotators: u64,
}

impl std::fmt::Display for Labeling {
    /// `43 of 125 photos are labeled, 7 wait for a second person`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} photos are labeled", self.labeled, self.photos)?;
        match self.wait_for_second {
            0 => Ok(()),
            1 => f.write_str(", 1 waits for a second person"),
            photos => write!(f, ", {photos} wait for a second person"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_words() {
        let mut labeling = Labeling {
            photos: 125,
            labeled: 43,
            ..Labeling::default()
        };
        assert_eq!(labeling.to_string(), "43 of 125 photos are labeled");
        labeling.wait_for_second = 1;
        assert_eq!(
            labeling.to_string(),
            "43 of 125 photos are labeled, 1 waits for a second person"
        );
        labeling.wait_for_second = 7;
        assert_eq!(
            labeling.to_string(),
            "43 of 125 photos are labeled, 7 wait for a second person"
        );
    }
}
