//! What the check of a config refuses, with the exact messages.

use super::*;

const TEXT: &str = "\
[source.csv]
files = [\"photos.csv\"]
columns = { key = \"key\", licence = \"licence\" }
url_encoded = []
[[stages]]
[stages.licence]
attribution = []
accept = [{ name = \"CC0\", urls = [\"https://example.org/cc0\"] }, { name = \"CC BY\", urls = [] }]
[[stages]]
[stages.fetch]
from = \"image_url\"
concurrency = 4
requests_per_second_per_host = 1.0
attempts = 3
pause_s = 1.0
max_pause_s = 60.0
timeout_s = 60.0
max_bytes = 1000
max_redirects = 3
gone_addresses = [\"unavailable\"]
give_up_after = 50
private_addresses = false
user_agent = \"me (me@example.org)\"
robots_noai = \"drop\"
[[stages]]
[stages.persons]
weights = \"yolox.onnx\"
class = 0
score = 0.5
candidate_score = 0.02
nms_iou = 0.45
[release]
name = \"n\"
description = \"d\"
publisher = \"p\"
contact = \"c\"
url = \"u\"
licence_url = \"l\"
records_per_shard = 100
shard_prefix = \"s\"
coordinates = false
";

/// The error of [`TEXT`] with one part replaced.
fn refused(from: &str, to: &str) -> String {
    assert!(TEXT.contains(from), "{from}");
    let config: Config = toml::from_str(&TEXT.replace(from, to)).unwrap();
    config.validate().unwrap_err().to_string()
}

#[test]
fn the_text_is_accepted() {
    toml::from_str::<Config>(TEXT).unwrap().validate().unwrap();
}

#[test]
fn texts_and_names_that_say_nothing_are_refused() {
    for (from, to, message) in [
        (
            "key = \"key\"",
            "key = \"\"",
            "`source.csv.columns.key` must be the name of a column, got none",
        ),
        (
            "licence = \"licence\"",
            "licence = \" \"",
            "`source.csv.columns.licence` must be the name of a column, got none",
        ),
        (
            "[\"photos.csv\"]",
            "[]",
            "`source.csv.files` must be at least one file, got none",
        ),
        (
            "[\"photos.csv\"]",
            "[\"a.csv\", \"\"]",
            "`source.csv.files` must be names of files, got none",
        ),
        (
            "[\"photos.csv\"]",
            "[\"a.csv\", \"b.csv\", \"a.csv\"]",
            "`source.csv.files` must name each file once, got `a.csv` twice",
        ),
        (
            "name = \"CC0\"",
            "name = \" \"",
            "`stages.licence.accept.0.name` must be the name of a license, got none for [\"https://example.org/cc0\"]",
        ),
        (
            "[\"https://example.org/cc0\"]",
            "[\"https://example.org/cc0\", \"\"]",
            "`stages.licence.accept.0.urls` must be addresses of the license `CC0`, got an empty one",
        ),
        (
            "\"CC BY\"",
            "\"CC0\"",
            "`stages.licence.accept.1.name` must be another name than those before it, got `CC0` twice: write its addresses in one entry",
        ),
        (
            "[\"unavailable\"]",
            "[\"unavailable\", \"\"]",
            "`stages.fetch.gone_addresses` must be parts of addresses, got an empty one, which is in every address",
        ),
        (
            "\"me (me@example.org)\"",
            "\"  \"",
            "`stages.fetch.user_agent` must be printable ASCII and name a contact: hosts refuse programs that do not say who runs them",
        ),
        (
            "attribution = []",
            "attribution = [\"photographer\", \"title\", \"photographer\"]",
            "`stages.licence.attribution` must have each once, got `photographer` twice",
        ),
        (
            "pause_s = 1.0\nmax",
            "pause_s = 90.0\nmax",
            "`stages.fetch.pause_s` must be at most `max_pause_s` = 60, got 90",
        ),
        (
            "\"yolox.onnx\"",
            "\"\"",
            "`stages.persons.weights` must be a file of weights, got none",
        ),
        (
            "licence_url = \"l\"",
            "licence_url = \"\"",
            "`release.licence_url` must be the address of a license, got none",
        ),
    ] {
        assert_eq!(refused(from, to), message);
    }
}

#[test]
fn lists_and_limits_that_no_photo_can_meet_are_refused() {
    let with = |stage: &str| {
        refused(
            "[[stages]]\n[stages.persons]",
            &format!("[[stages]]\n{stage}[[stages]]\n[stages.persons]"),
        )
    };
    assert_eq!(
        with(
            "[stages.integrity]\nmin_side_px = 2000\nmax_side_px = 9000\nmax_pixels = 3000000\nsingle_colour_levels = 0\nplaceholders = []\n"
        ),
        "`stages.integrity.max_pixels` must be at least 4000000, the square of `min_side_px`, got 3000000: every photo would be too \
         small or too large"
    );
    assert_eq!(
        with(
            "[stages.review]\ndrop = [\"person\", \"person\"]\nlabelled_twice = 0.0\ndisagreement = \"drop\"\nseed = 0\n"
        ),
        "`stages.review.drop` must have each once, got `person` twice"
    );
}

#[test]
fn sources_that_name_no_photos_are_refused() {
    let refused = |source: &str| {
        let start = TEXT.find("[[stages]]").unwrap();
        let config: Config = toml::from_str(&format!("{source}{}", &TEXT[start..])).unwrap();
        config.validate().unwrap_err().to_string()
    };
    for (source, message) in [
        (
            "[source.folder]\nfolder = \"\"\nclass_folders = false\n",
            "`source.folder.folder` must be a folder of photos, got none",
        ),
        (
            "[source.folder]\nfolder = \"photos\"\nclass_folders = false\nphotographer = \" \"\n",
            "`source.folder.photographer` must be a name, or be left out, got none",
        ),
        (
            "[source.dataset]\ndata = \"\"\n",
            "`source.dataset.data` must be a data set, got none",
        ),
        (
            "[source.yfcc100m]\nfiles = [\"\"]\n",
            "`source.yfcc100m.files` must be names of files, got none",
        ),
    ] {
        assert_eq!(refused(source), message);
    }
}
