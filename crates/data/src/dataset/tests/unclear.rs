//! Paths that a user may well give, and that need a better message than "not found".

use super::*;

fn message(path: &Path) -> String {
    open(path).unwrap_err().to_string()
}

#[test]
fn one_picture_is_no_data_set() {
    let folder = class_folder();
    let picture = folder.path().join("ant/0.v1.bmp");
    let error = open(&picture).unwrap_err();
    assert!(
        error.to_string().contains("one picture is no data set"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::GiveFolder));
    let error = verify(picture.to_str().unwrap(), &|_, _| {}).unwrap_err();
    assert!(
        error.to_string().contains("one picture is no data set"),
        "{error}"
    );
    let bare = folder.path().join("README");
    fs::write(&bare, "text").unwrap();
    assert!(message(&bare).contains("a file without an extension; expected a `.tar`"));
    assert!(matches!(
        verify("no/such/folder", &|_, _| {}),
        Err(Error::NotFound { .. })
    ));
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_in_circles_are_told() {
    use std::os::unix::fs::symlink;
    let folder = class_folder();
    let gone = folder.path().join("gone");
    symlink("/no/such/place", &gone).unwrap();
    assert!(message(&gone).contains("a symbolic link to `/no/such/place`, which does not exist"));
    // Beside class folders, and as a single picture.
    assert!(
        message(folder.path()).contains("gone` is a symbolic link to `/no/such/place`, which does not exist")
    );
    fs::remove_file(&gone).unwrap();
    let itself = folder.path().join("itself");
    symlink(&itself, &itself).unwrap();
    assert!(message(&itself).contains("a symbolic link that leads back to itself"));
    fs::remove_file(&itself).unwrap();
    symlink(folder.path(), folder.path().join("ant/up")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("a symbolic link back to"), "{error}");
    assert_eq!(error.hint(), Some(crate::Hint::RestoreLink));
}

#[test]
fn pictures_in_formats_that_are_not_read_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.HEIC", "b.heic", "c.tiff"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let error = message(folder.path());
    assert!(
        error.ends_with("(it has 2 .heic (such as `a.HEIC`), 1 .tiff (such as `c.tiff`))"),
        "{error}"
    );
}

#[test]
fn repeated_keys_are_found_within_a_shard_and_across() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, three] = [1, 2, 3].map(picture);
    tar_with(
        &folder.path().join("a.tar"),
        &[("x.bmp", &one), ("y.bmp", &two), ("x.bmp", &three)],
    );
    tar_with(&folder.path().join("b.tar"), &[("y.bmp", &two), ("z.bmp", &one)]);
    let found = verify(folder.path().to_str().unwrap(), &|_, _| {}).unwrap();
    let names: Vec<&str> = found.repeated.iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["x", "y"]);
    assert!(found.repeated[0].reason.ends_with("a.tar` has it twice"));
    assert!(found.repeated[1].reason.contains("b.tar` has it, and shard"));
    assert!(!found.is_sound());
}

#[test]
fn a_limit_of_nothing_is_refused_and_descriptions_point_without_dots() {
    let folder = class_folder();
    let out = folder.path().join("shards");
    let error = pack(
        folder.path().to_str().unwrap(),
        &out,
        &PackOptions {
            limit: Some(0),
            ..options(2)
        },
        &|_, _| {},
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "`limit` must be at least 1, got 0");
    pack(folder.path().to_str().unwrap(), &out, &options(2), &|_, _| {}).unwrap();
    let inspection = crate::shards::inspect(out.to_str().unwrap()).unwrap();
    assert_eq!(inspection.shards[0].path, out.join("train-000000.tar"));
}
