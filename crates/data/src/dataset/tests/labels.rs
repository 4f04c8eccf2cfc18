//! Labels that could be read in two ways, in every layout: the right class or an error, never a guess.

use super::*;

fn describe(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("data.toml");
    fs::write(&path, text).unwrap();
    path
}

/// The label of every record of a description.
fn labels(folder: &TempDir, text: &str) -> Vec<Option<Label>> {
    let data = open(&describe(folder, text)).unwrap();
    (0..data.len()).map(|at| data.label(at).unwrap()).collect()
}

fn refused(folder: &TempDir, text: &str) -> Error {
    open(&describe(folder, text)).unwrap_err()
}

/// `0.bmp`, `1.bmp` and so on, with a table of their labels.
fn labeled(rows: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = "path,label\n".to_string();
    for (at, label) in rows.iter().enumerate() {
        fs::write(folder.path().join(format!("{at}.bmp")), picture(at as u64)).unwrap();
        table.push_str(&format!("{at}.bmp,{label}\n"));
    }
    fs::write(folder.path().join("t.csv"), table).unwrap();
    folder
}

const TABLE: &str =
    "kind = 'csv'\npath = '.'\nlabels = 't.csv'\nimage_column = 'path'\nlabel_column = 'label'\n";

fn class(number: u32) -> Option<Label> {
    Some(Label::Class(number))
}

#[test]
fn digits_beside_named_classes_are_names() {
    let folder = labeled(&["10", "20", "30"]);
    let with = |classes: &str| format!("{TABLE}classes = [{classes}]\n");
    assert_eq!(
        labels(&folder, &with("'30', '20', '10'")),
        [class(2), class(1), class(0)]
    );

    // 2 is no name; as a position it would be the class `30`.
    let folder = labeled(&["10", "20", "2"]);
    let error = refused(&folder, &with("'10', '20', '30'"));
    let text = error.to_string();
    assert!(
        text.contains(
            "class `2` (`2.bmp`) is none of the 3 classes of the data-set description: `10`, `20`, `30`"
        ) && text.ends_with("as a number from 0 it would be `30`"),
        "{text}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::StateLabels));

    // The user may say that these are numbers; then all are.
    let folder = labeled(&["2", "0", "1"]);
    let numbers = |classes: &str| format!("{}labels_are = 'numbers'\n", with(classes));
    assert!(
        refused(&folder, &with("'a', 'b', 'c'"))
            .to_string()
            .contains("it would be `a`")
    );
    assert_eq!(
        labels(&folder, &numbers("'a', 'b', 'c'")),
        [class(2), class(0), class(1)]
    );
    assert_eq!(
        labels(&folder, &numbers("'2', '1', '0'")),
        [class(2), class(0), class(1)]
    );
    let text = refused(&folder, &numbers("'a', 'b'")).to_string();
    assert!(
        text.contains("label of `0.bmp` must be a number from 0 to 1, one for each of the description's classes, got `2`"),
        "{text}"
    );
}

#[test]
fn numbers_and_names_in_one_table_are_an_error_that_shows_both() {
    let folder = labeled(&["0", "oak", "1"]);
    let error = refused(&folder, TABLE);
    let text = error.to_string();
    assert!(
        text.ends_with("labels must be all numbers or all names, got `0` (`0.bmp`) and `oak` (`1.bmp`)"),
        "{text}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::StateLabels));
    let named = format!("{TABLE}labels_are = 'names'\n");
    assert_eq!(labels(&folder, &named), [class(0), class(2), class(1)]);
    let text = refused(&folder, &format!("{TABLE}labels_are = 'numbers'\n")).to_string();
    assert!(
        text.contains("label of `1.bmp` must be a number from 0, got `oak`"),
        "{text}"
    );

    // -1 marks records without a label in many tables; a sign and a point are no digits.
    for odd in ["-1", "+1", "1.0", "1e0", "\u{0661}"] {
        let folder = labeled(&["0", "1", odd]);
        assert!(refused(&folder, TABLE).to_string().contains(odd), "{odd}");
    }
    // pandas writes whole numbers like this once one is missing: as names, `10.0` would come before `2.0`.
    let error = refused(&labeled(&["2.0", "10.0", "nan"]), TABLE);
    assert!(
        error
            .to_string()
            .ends_with("labels must be whole numbers from 0 or names, got `10.0` (`1.bmp`)"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::StateLabels));
    let versions = labeled(&["2.0", "10.0", "3d"]);
    assert_eq!(labels(&versions, &named), [class(1), class(0), class(2)]);
    // One number, two names.
    let text = refused(&labeled(&["01", "2", "1"]), TABLE).to_string();
    assert!(
        text.ends_with("labels `01` and `1` are one number, but two names"),
        "{text}"
    );
    assert_eq!(labels(&labeled(&["01", "02"]), TABLE), [class(1), class(2)]);
    assert_eq!(
        labels(&labeled(&["01", "1"]), &format!("{TABLE}labels_are = 'names'\n")),
        [class(0), class(1)]
    );
}

#[test]
fn names_are_one_class_in_every_unicode_form() {
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    let folder = labeled(&[composed, decomposed, "pain"]);
    assert_eq!(labels(&folder, TABLE), [class(0), class(0), class(1)]);
    for classes in [[composed, "pain"], [decomposed, "pain"]] {
        let text = format!("{TABLE}classes = ['{}', '{}']\n", classes[0], classes[1]);
        assert_eq!(labels(&folder, &text), [class(0), class(0), class(1)]);
    }
    let text = format!("{TABLE}classes = ['{composed}', 'pain', '{decomposed}']\n");
    assert!(
        refused(&folder, &text)
            .to_string()
            .contains("must name each class once")
    );

    // A folder from a Mac has the classes of one from Linux, in their order and with their names.
    let names = |classes: [&str; 2]| {
        let folder = tempfile::tempdir().unwrap();
        for (at, class) in classes.iter().enumerate() {
            fs::create_dir(folder.path().join(class)).unwrap();
            fs::write(folder.path().join(class).join("0.bmp"), picture(at as u64)).unwrap();
        }
        let data = open(folder.path())?;
        let labels: Vec<_> = (0..2)
            .map(|at| (data.key(at).unwrap(), data.label(at).unwrap()))
            .collect();
        Ok::<_, Error>((data.class_names().to_vec(), labels))
    };
    // Byte order differs: `cafz` lies between the two spellings.
    let (of_linux, _) = names([composed, "cafz"]).unwrap();
    let (of_mac, keys) = names([decomposed, "cafz"]).unwrap();
    assert_eq!(of_linux, ["cafz", composed]);
    assert_eq!(of_mac, of_linux);
    assert_eq!(
        keys,
        [
            (format!("{decomposed}/0"), class(1)),
            ("cafz/0".to_string(), class(0))
        ]
    );
    let error = names([composed, decomposed]).unwrap_err();
    assert!(
        error.to_string().contains("one name in two Unicode spellings"),
        "{error}"
    );
    assert_eq!(error.hint(), Some(crate::Hint::Rename));
}

#[test]
fn a_listed_file_of_another_spelling_is_told_from_a_missing_one() {
    let folder = labeled(&["a", "b"]);
    fs::rename(folder.path().join("0.bmp"), folder.path().join("cafe\u{301}.bmp")).unwrap();
    fs::write(
        folder.path().join("t.csv"),
        "path,label\ncaf\u{e9}.bmp,a\n1.bmp,b\n",
    )
    .unwrap();
    let text = refused(&folder, TABLE).to_string();
    assert!(
        text.ends_with("a file there has this name in another Unicode spelling"),
        "{text}"
    );
}

#[test]
fn a_listed_file_of_another_case_or_without_its_ending_is_named() {
    let folder = labeled(&["a", "b"]);
    for written in ["0.BMP", "0"] {
        fs::write(
            folder.path().join("t.csv"),
            format!("path,label\n{written},a\n1.bmp,b\n"),
        )
        .unwrap();
        let text = refused(&folder, TABLE).to_string();
        assert!(
            text.contains(&format!("lists `{written}`")) && text.ends_with("a file there is called `0.bmp`"),
            "{text}"
        );
    }
}

#[test]
fn a_table_that_can_be_read_in_two_ways_is_refused() {
    let folder = labeled(&["a", "b"]);
    let with = |table: &str| {
        fs::write(folder.path().join("t.csv"), table).unwrap();
        refused(&folder, TABLE).to_string()
    };
    let text = with("path,label,label\n0.bmp,a,x\n1.bmp,b,y\n");
    assert!(
        text.ends_with("has columns 1 and 2, counted from 0, called `label`; rename one of them"),
        "{text}"
    );
    let text = with("path;label\n0.bmp;a\n1.bmp;b\n");
    assert!(
        text.ends_with(
            "has no column `path`, it has: `path;label`; its columns may be separated by `separator = \";\"`"
        ),
        "{text}"
    );
    // Digits, and no number of a class.
    for large in ["4294967295", "99999999999"] {
        let text = with(&format!("path,label\n0.bmp,0\n1.bmp,{large}\n"));
        assert!(
            text.ends_with(&format!(
                "a number of a class must be at most 4294967294, got `{large}` (`1.bmp`)"
            )),
            "{text}"
        );
    }
}

#[test]
fn a_class_without_a_name_is_refused() {
    let folder = labeled(&["a", "b"]);
    for (classes, reason) in [
        (
            "",
            "must name at least one class, got none; leave the key out where they are not known",
        ),
        (
            "'a', ' ', 'b'",
            "must have a name for each class, got a blank one at 1, counted from 0",
        ),
    ] {
        let text = refused(&folder, &format!("{TABLE}classes = [{classes}]\n")).to_string();
        assert!(text.ends_with(reason), "{text}");
    }
}

#[test]
fn names_that_join_others_are_told_where_a_picture_has_one_class() {
    let joined = |rows: &[&str], more: &str| {
        let folder = labeled(rows);
        let data = open(&describe(&folder, &format!("{TABLE}{more}"))).unwrap();
        data.listing().count(Reason::JoinedClasses)
    };
    assert_eq!(joined(&["cat", "dog", "cat|dog", "dog|cat"], ""), 2);
    assert_eq!(joined(&["cat", "dog", "cat; dog"], ""), 1);
    assert_eq!(joined(&["cat", "dog", "cat|dog"], "label_separator = '|'\n"), 0);
    // Lists as Python prints them.
    let lists = ["\"['cat', 'dog']\"", "\"['dog']\"", "\"['bird', 'cow']\""];
    assert_eq!(joined(&lists, ""), 2);
    // Names of their own.
    assert_eq!(joined(&["cat", "salt|pepper"], ""), 0);
    assert_eq!(joined(&["\"(left, right)\"", "\"cat's\"", "cat"], ""), 0);
}

#[test]
fn a_label_in_a_shard_is_a_number_and_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("a.tar");
    let image = picture(1);
    let message = |members: &[(&str, &[u8])]| {
        tar_with(&shard, members);
        open(&shard).unwrap_err()
    };
    for (content, shown) in [
        (&b"dog\n"[..], "got `dog`"),
        (b"-1", "got `-1`"),
        (b"3.0", "got `3.0`"),
        (b"", "got ``"),
        (b"1 2", "got `1 2`"),
        (b"+3", "got `+3`"),
    ] {
        let error = message(&[("x.bmp", &image), ("x.cls", content)]);
        let text = error.to_string();
        assert!(
            text.contains("member `x.cls` must hold the number of a class") && text.ends_with(shown),
            "{text}"
        );
        assert_eq!(error.hint(), Some(crate::Hint::NumberClasses));
    }
    // Cut at the limit it would be class 5.
    let long = [&b"5"[..], &[b' '; 300], b"6"].concat();
    let text = message(&[("x.bmp", &image), ("x.cls", &long)]).to_string();
    assert!(text.contains("must have at most 256 bytes"), "{text}");
    for second in ["x.classes.json", "x.CLS"] {
        let content = if second.ends_with("json") {
            &b"[1]"[..]
        } else {
            b"2"
        };
        let text = message(&[("x.bmp", &image), ("x.cls", b"1"), (second, content)]).to_string();
        assert!(
            text.ends_with(&format!(
                "record `x` has two labels, in `x.cls` and in `{second}`"
            )),
            "{text}"
        );
    }
    // A check of several shards lists it and continues.
    tar_with(
        &folder.path().join("b.tar"),
        &[("y.bmp", &image), ("y.cls", b"1")],
    );
    let found = verify(folder.path().to_str().unwrap(), &|_, _| {}).unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert!(found.damaged[0].reason.contains("has two labels"));
}

#[test]
fn cocos_categories_are_the_classes_of_their_names() {
    let folder = labeled(&["x", "x"]);
    let json = r#"{"images": [{"id": 5, "file_name": "0.bmp"}, {"id": 9, "file_name": "1.bmp"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}, {"id": 20, "name": "none"}],
        "annotations": [{"image_id": 5, "category_id": 18}, {"image_id": 9, "category_id": 3}]}"#;
    let text =
        |classes: &str| format!("kind = 'coco'\npath = '.'\nlabels = 'a.json'\none_class = true\n{classes}");
    let write =
        |from: &str, to: &str| fs::write(folder.path().join("a.json"), json.replace(from, to)).unwrap();
    write("", "");
    assert_eq!(labels(&folder, &text("")), [class(1), class(0)]);
    // By name, in whatever order the description has them; by place the two would be swapped.
    assert_eq!(
        labels(&folder, &text("classes = ['dog', 'bird', 'car']\n")),
        [class(0), class(2)]
    );
    let error = refused(&folder, &text("classes = ['Hund', 'Auto', 'nichts']\n")).to_string();
    assert!(
        error.contains(
            "category `dog` (18) is none of the 3 classes of the data-set description: `Hund`, `Auto`"
        ),
        "{error}"
    );
    write(r#""id": 9"#, r#""id": 5"#);
    let error = refused(&folder, &text("")).to_string();
    assert!(
        error.contains("lists image 5 twice, the second time as `1.bmp`"),
        "{error}"
    );
    let start = json.find("\"annotations\"").unwrap();
    fs::write(
        folder.path().join("a.json"),
        format!("{}\"annotations\": []}}", &json[..start]),
    )
    .unwrap();
    let error = refused(&folder, &text("").replace("one_class = true\n", ""));
    assert!(error.to_string().contains("not one annotation"), "{error}");
    assert_eq!(error.hint(), Some(crate::Hint::DescribeAsFlat));
}

#[test]
fn lists_and_splits_that_are_not_there_name_those_that_are() {
    let folder = labeled(&["a"]);
    let lists = folder.path().join("ImageSets/Main");
    fs::create_dir_all(&lists).unwrap();
    fs::create_dir_all(folder.path().join("JPEGImages")).unwrap();
    fs::create_dir_all(folder.path().join("Annotations")).unwrap();
    fs::write(lists.join("trainval.txt"), "").unwrap();
    let text = refused(&folder, "kind = 'voc'\npath = '.'\nlist = 'trian'").to_string();
    assert!(text.ends_with("no such list; there are: `trainval`"), "{text}");
}

#[test]
fn a_split_of_a_folder_with_a_description_is_that_of_the_description() {
    let folder = labeled(&["a", "b"]);
    let long = "name = 'x'\nmetric = 'mean_class'\n[splits.train]\nkind = 'flat'\npath = '.'\n";
    fs::write(folder.path().join("dataset.toml"), long).unwrap();
    let of = |split: &str| format!("{}{split}", folder.path().display());
    assert_eq!(Dataset::open(&of("#train")).unwrap().len(), 2);
    assert_eq!(
        Dataset::about(&of("#train")).unwrap().metric.as_deref(),
        Some("mean_class")
    );
    let error = Dataset::open(&of("#test")).unwrap_err().to_string();
    assert!(error.ends_with("has no split `test`, it has: `train`"), "{error}");
    assert!(verify(&of("#train"), &|_, _| {}).unwrap().is_sound());
}

#[test]
fn cifars_names_must_be_as_many_as_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.bin"), vec![0; 3073]).unwrap();
    fs::write(folder.path().join("batches.meta.txt"), "cat\ndog\n").unwrap();
    let text = refused(&folder, "kind = 'cifar10'\npath = '.'\nfiles = ['a.bin']").to_string();
    assert!(
        text.ends_with("must name 10 classes, one a line, got 2"),
        "{text}"
    );
}

/// The content hashes come from the index of every kind of source, and are those of the images.
#[test]
fn contents_are_those_of_the_images_and_nothing_is_read_again() {
    let folder = class_folder();
    let out = tempfile::tempdir().unwrap();
    let data = open(folder.path()).unwrap();
    pack_dataset(&data, out.path(), &options(2), &|_, _| {}).unwrap();
    let packed = open(out.path()).unwrap();
    let contents = data.contents().unwrap();
    let expected: Vec<u128> = (0..data.len())
        .map(|at| {
            let hash = Sha256::digest(data.read(at).unwrap().image);
            u128::from_be_bytes(hash[..16].try_into().unwrap())
        })
        .collect();
    assert_eq!(contents, Contents(expected.clone()));
    assert_eq!(
        contents.shared_with(&packed.contents().unwrap()).records,
        data.len()
    );
    let part = Dataset::part(&Arc::new(data), vec![3, 1]).unwrap();
    assert_eq!(part.contents().unwrap(), Contents(vec![expected[3], expected[1]]));

    // Of a part it is that of its records alone.
    let sampled = part.sample().unwrap().compare(&contents);
    assert_eq!((sampled.compared, sampled.shared), (5, 2));
    let synthetic = Arc::new(Dataset::synthetic(4, 8, 8, 0, 0));
    assert!(
        Dataset::part(&synthetic, vec![1])
            .unwrap()
            .sample()
            .unwrap()
            .is_empty()
    );

    // The sample of a small set is all of it, and the same in both.
    let sampled = packed.sample().unwrap().compare(&contents);
    assert_eq!((sampled.compared, sampled.shared), (5, 5));
    assert_eq!(
        open(folder.path()).unwrap().sample().unwrap(),
        packed.sample().unwrap()
    );

    // Without the photos: the index is enough. Without the index: the photos are.
    let data = open(folder.path()).unwrap();
    let photo = folder.path().join("bird/1.v1.bmp");
    let bytes = fs::read(&photo).unwrap();
    fs::write(&photo, "").unwrap();
    assert_eq!(data.contents().unwrap(), Contents(expected.clone()));
    fs::write(&photo, bytes).unwrap();
    fs::remove_file(folder.path().join(".passer.idx")).unwrap();
    assert_eq!(data.contents().unwrap(), Contents(expected));
    for index in fs::read_dir(out.path()).unwrap().flatten() {
        if index
            .path()
            .extension()
            .is_some_and(|extension| extension == "idx")
        {
            fs::remove_file(index.path()).unwrap();
        }
    }
    assert_eq!(packed.contents().unwrap().shared_with(&contents).records, 5);

    let listed = labeled(&["a", "b"]);
    let data = open(&describe(&listed, TABLE)).unwrap();
    let hash = Sha256::digest(picture(1));
    let second = u128::from_be_bytes(hash[..16].try_into().unwrap());
    assert_eq!(data.contents().unwrap().0[1], second);
}
