//! Durable files and folders: after success, failure and crashes.

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_and_leaves_no_litter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    write(&path, b"one").unwrap();
    write(&path, b"2").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"2");
    write_json(&path, &[1, 2]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"[\n  1,\n  2\n]\n");
    assert_eq!(names(folder.path()), ["a.json"]);
}

#[test]
fn errors_name_the_file_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing/b.json");
    let expected = format!("cannot write `{}`: ", path.display());
    for error in [
        write(&path, b"x").unwrap_err(),
        Writer::create(&path).unwrap_err(),
    ] {
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    // A folder occupies the file's path.
    let path = folder.path().join("taken");
    fs::create_dir_all(path.join("full")).unwrap();
    let error = write(&path, b"x").unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot write `{}`: ", path.display())),
        "{error}"
    );
    assert_eq!(names(folder.path()), ["taken"]);
    assert!(write(Path::new(".."), b"x").is_err());
}

#[test]
fn an_unfinished_file_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    write(&path, b"old").unwrap();
    let mut writer = Writer::create(&path).unwrap();
    writer.write_all(&vec![1; BUFFER_BYTES * 2]).unwrap();
    assert_eq!(names(folder.path()), [".partial-a", "a"]);
    drop(writer);
    assert_eq!(names(folder.path()), ["a"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_crashs_leftover_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    fs::write(folder.path().join(".partial-a"), vec![7; 1000]).unwrap();
    write(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn two_writers_of_one_file_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let mut first = Writer::create(&path).unwrap();
    let mut second = Writer::create(&path).unwrap();
    first.write_all(b"first").unwrap();
    second.write_all(b"second one").unwrap();
    first.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
    second.finish_unsynced().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second one");
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn many_threads_write_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write(path, &[thread; 10_000]).unwrap();
                    let read = fs::read(path).unwrap();
                    assert!(read.len() == 10_000 && read.iter().all(|byte| *byte == read[0]));
                }
            });
        }
    });
    assert_eq!(names(folder.path()), ["a"]);
}

#[test]
fn a_second_handle_writes_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let writer = Writer::create(&path).unwrap();
    let mut handle = writer.handle().unwrap();
    handle.write_all(b"through it").unwrap();
    drop(handle);
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"through it");
}

#[test]
fn the_longest_names_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let name = "x".repeat(255);
    write(&folder.path().join(&name), b"1").unwrap();
    assert_eq!(names(folder.path()), [name]);
}

/// Root may write in a read-only folder; other users get an error that names the file.
#[cfg(unix)]
#[test]
fn a_read_only_folder_is_named_or_written_whole() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("fixed");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let path = folder.join("a");
    let written = write(&path, b"x");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    match written {
        Ok(()) => assert_eq!(names(&folder), ["a"]),
        Err(error) => {
            assert_eq!(error.source.kind(), io::ErrorKind::PermissionDenied);
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("cannot write `{}`: ", path.display()))
            );
            assert!(names(&folder).is_empty());
        }
    }
}

#[test]
fn a_folder_appears_whole() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("runs/step-1");
    // The leftover of an earlier crash is not part of the new folder.
    fs::create_dir_all(home.path().join("runs/.partial-step-1/old")).unwrap();
    let folder = Folder::create(&path).unwrap();
    fs::create_dir(folder.path().join("inner")).unwrap();
    fs::write(folder.path().join("inner/a"), "a").unwrap();
    assert_eq!(names(path.parent().unwrap()), [".partial-step-1"]);
    folder.finish().unwrap();
    assert_eq!(names(path.parent().unwrap()), ["step-1"]);
    assert_eq!(names(&path), ["inner"]);

    let again = Folder::create(&path).unwrap();
    fs::write(again.path().join("b"), "b").unwrap();
    let error = again.finish().unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!((error.action, &error.path), ("make", &path));
    assert_eq!(names(path.parent().unwrap()), ["step-1"]);
    assert_eq!(names(&path), ["inner"]);

    let again = Folder::create(&path).unwrap();
    fs::write(again.path().join("b"), "b").unwrap();
    again.replace().unwrap();
    assert_eq!(names(path.parent().unwrap()), ["step-1"]);
    assert_eq!(names(&path), ["b"]);

    remove_folder(&path).unwrap();
    assert!(names(path.parent().unwrap()).is_empty());
    let error = remove_folder(&path).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot remove `{}`: ", path.display()))
    );
}

#[test]
fn leftovers_go_and_everything_else_stays() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join(".partial-step-2/x")).unwrap();
    fs::write(home.path().join(".partial-config.toml-12-0"), "").unwrap();
    for kept in [".lock", "partial", "step-1"] {
        fs::write(home.path().join(kept), "").unwrap();
    }
    remove_leftovers(home.path()).unwrap();
    assert_eq!(names(home.path()), [".lock", "partial", "step-1"]);
    remove_leftovers(&home.path().join("missing")).unwrap();
}

#[test]
fn a_crash_between_the_two_renames_of_a_replacement_loses_no_folder() {
    let home = tempfile::tempdir().unwrap();
    // The old folder has lost its name, and the new one has none yet.
    fs::create_dir(home.path().join(".partial-step-2-replaced")).unwrap();
    fs::write(home.path().join(".partial-step-2-replaced/old"), "").unwrap();
    fs::create_dir(home.path().join(".partial-step-2")).unwrap();
    // The replacement was complete, but for the removal.
    fs::create_dir(home.path().join("step-3")).unwrap();
    fs::create_dir(home.path().join(".partial-step-3-replaced")).unwrap();
    // A removal that was not completed stays a removal.
    fs::create_dir(home.path().join(".partial-step-1-old")).unwrap();
    remove_leftovers(home.path()).unwrap();
    assert_eq!(names(home.path()), ["step-2", "step-3"]);
    assert_eq!(names(&home.path().join("step-2")), ["old"]);
}

#[test]
fn a_leftover_says_which_name_it_would_have_got() {
    for (leftover, name) in [
        (".partial-.passer.idx", Some(".passer.idx")),
        (".partial-a.tar.idx-4711-0", Some("a.tar.idx")),
        (".partial-step-00000012", Some("step-00000012")),
        (".partial-step-00000012-replaced", Some("step-00000012")),
        (".partial-step-00000012-old", Some("step-00000012")),
        (".partial-a-b.jpg", Some("a-b.jpg")),
        ("a.tar.idx", None),
        (".a.partial-b", None),
    ] {
        assert_eq!(final_name(leftover), name, "{leftover}");
    }
    // What is written has such names.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a-1.idx");
    let (first, second) = (Writer::create(&path).unwrap(), Writer::create(&path).unwrap());
    for writer in [&first, &second] {
        let name = writer.aside.file_name().unwrap().to_str().unwrap();
        assert_eq!(final_name(name), Some("a-1.idx"), "{name}");
    }
    assert_eq!(leftover_of(&path).unwrap(), first.aside);
}
