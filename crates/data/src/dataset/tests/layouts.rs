//! Data-set descriptions, and every layout that they can name.

use super::*;
use crate::hint::Hint;
use crate::settings::Cure;

fn describe(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("data.toml");
    fs::write(&path, text).unwrap();
    path
}

fn refused(folder: &TempDir, text: &str) -> String {
    open(&describe(folder, text)).unwrap_err().to_string()
}

#[test]
fn splits_are_named_behind_a_hash() {
    let folder = class_folder();
    let root = folder.path().join("pictures");
    fs::create_dir(&root).unwrap();
    for class in ["ant", "bird"] {
        fs::rename(folder.path().join(class), root.join(class)).unwrap();
    }
    let text = "name = 'Animals'\nmetric = 'mean_class'\nclasses = ['bird', 'ant']\n\
        test_transforms = [{ resize_exact = { width_px = 8, height_px = 8, filter = 'bilinear' } }]\n\
        [splits.all]\nkind = 'folder'\npath = 'pictures'\n[splits.none]\nkind = 'flat'\npath = 'pictures'\n\
        [[downloads]]\nurl = 'https://example.org/a.tar'\nmd5 = '00'\n";
    let path = describe(&folder, text);
    let spec = |split: &str| format!("{}#{split}", path.display());
    let all = Dataset::open(&spec("all")).unwrap();
    assert_eq!((all.len(), all.label(0).unwrap()), (5, Some(Label::Class(1))));
    assert!(!Dataset::open(&spec("none")).unwrap().is_labeled());
    let about = Dataset::about(&spec("all")).unwrap();
    assert_eq!(
        (about.name.as_deref(), about.metric.as_deref(), about.splits.len()),
        (Some("Animals"), Some("mean_class"), 2)
    );
    assert_eq!(about.downloads[0].md5.as_deref(), Some("00"));
    assert_eq!(Dataset::about("pictures").unwrap(), About::default());
    // As a source of shards, and inspected.
    assert_eq!(crate::shards::inspect(&spec("all")).unwrap().records, 5);
    assert!(verify(&spec("all"), &|_, _| {}).unwrap().is_sound());

    let error = open(&path).unwrap_err().to_string();
    assert!(
        error.contains("has several splits; name one: ") && error.contains("data.toml#none"),
        "{error}"
    );
    let error = Dataset::open(&spec("trian")).unwrap_err().to_string();
    assert!(
        error.ends_with("has no split `trian`, it has: `all`, `none`"),
        "{error}"
    );
    for (from, to, part) in [
        (
            "'mean_class'",
            "'f1'",
            "line 2: `metric` must be one of `top1`, `mean_class`, `map`, got \"f1\"",
        ),
        (
            "['bird', 'ant']",
            "['ant', 'ant']",
            "`classes` must name each class once, got `ant` twice",
        ),
        (
            "kind = 'flat'",
            "kind = 'flat'\nlist = 'x'",
            "`splits.none.list` is for `voc`, not for `flat`",
        ),
        (
            "kind = 'flat'",
            "kind = 'csv'",
            "`splits.none.labels` is missing: `csv` needs it",
        ),
        ("kind = 'flat'", "kind = 'flta'", "`csv`, `yolo`, got \"flta\""),
        (
            "path = 'pictures'\n[splits.none]",
            "path = '${NO_SUCH_VARIABLE_HERE}/x'\n[splits.none]",
            "environment variable `NO_SUCH_VARIABLE_HERE`, which is not set",
        ),
    ] {
        fs::write(&path, text.replace(from, to)).unwrap();
        let error = Dataset::open(&spec("all")).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // Cures are values.
    fs::write(&path, text.replace("kind = 'flat'", "kind = 'flta'")).unwrap();
    let hint = Dataset::open(&spec("all")).unwrap_err().hint();
    let Some(Hint::Settings(fault)) = hint else {
        panic!("{hint:?}")
    };
    let (path_of_key, name) = ("splits.none.kind".to_string(), "flat".to_string());
    assert_eq!(
        fault.cure(),
        Some(&Cure::Value {
            path: path_of_key,
            name
        })
    );
    assert!(refused(&folder, "kind = 'flat'\npath = 'absent'").contains("absent` is not a folder"));
    let one = describe(&folder, "kind = 'flat'\npath = 'pictures'");
    let error = Dataset::open(&format!("{}#x", one.display()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no splits"), "{error}");
}

#[test]
fn cifars_binary_files_become_pictures() {
    let folder = tempfile::tempdir().unwrap();
    // Two records of CIFAR-100's layout: coarse label, fine label, planes.
    let mut content = vec![];
    for (fine, red) in [(7u8, 10u8), (99, 200)] {
        content.extend([1, fine]);
        content.extend([red; 1024]);
        content.extend((0..1024).map(|at| (at % 256) as u8));
        content.extend([3; 1024]);
    }
    fs::write(folder.path().join("train.bin"), &content).unwrap();
    let path = describe(&folder, "kind = 'cifar100'\npath = '.'\nfiles = ['train.bin']");
    let data = open(&path).unwrap();
    assert_eq!((data.len(), data.key(1).unwrap()), (2, "train/00001".to_string()));
    assert_eq!(data.label(1).unwrap(), Some(Label::Class(99)));
    let image = crate::decode(&data.read(1).unwrap().image, &crate::DecodeLimits::default()).unwrap();
    assert_eq!((image.width, image.height), (32, 32));
    assert_eq!(image.pixels[3 * 33..3 * 34], [200, 33, 3]);
    assert_eq!(data.fingerprint(), open(&path).unwrap().fingerprint());

    fs::write(folder.path().join("train.bin"), &content[..content.len() - 1]).unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(
        error.contains("must have a multiple of 3074 bytes (records of 32 x 32 px), got 6147"),
        "{error}"
    );
    let text = "kind = 'cifar10'\npath = '.'\nfiles = ['train.bin']";
    content[0] = 11;
    fs::write(folder.path().join("train.bin"), &content[..3073]).unwrap();
    assert!(refused(&folder, text).contains("record 0 must be of a class in 0..9, got 11"));
    // The version for Python, in its place.
    fs::write(
        folder.path().join("train.bin"),
        b"\x80\x02}q\x01(U\x0bbatch_label",
    )
    .unwrap();
    let error = refused(&folder, text);
    assert!(
        error.ends_with("take the binary version of the data set"),
        "{error}"
    );
}

#[test]
fn idx_is_read_gzipped_or_not() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/quickstart");
    let folder = tempfile::tempdir().unwrap();
    let text = |labels: &str| {
        format!(
            "kind = 'idx'\npath = '{}'\nlabels = '{}'",
            bundled.join("t10k-images-idx3-ubyte").display(),
            bundled.join(labels).display()
        )
    };
    let data = open(&describe(&folder, &text("t10k-labels-idx1-ubyte.gz"))).unwrap();
    assert_eq!((data.len(), data.is_labeled()), (2000, true));
    assert_eq!(data.key(1999).unwrap(), "t10k-images-idx3-ubyte/01999");
    let image = crate::decode(&data.read(0).unwrap().image, &crate::DecodeLimits::default()).unwrap();
    assert_eq!((image.width, image.height), (28, 28));
    let error = refused(&folder, &text("train-labels-idx1-ubyte"));
    assert!(
        error.contains("has labels of shape [6000]") && error.contains("has 2000 images"),
        "{error}"
    );
    let error = refused(
        &folder,
        &format!(
            "kind = 'idx'\npath = '{}'",
            folder.path().join("data.toml").display()
        ),
    );
    assert!(error.contains("not an IDX file of bytes"), "{error}");

    // Two pictures of 2 x 3 px by the header.
    let file = |values: usize| {
        let header = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3];
        let content = [&header[..], &vec![9; values]].concat();
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        std::io::Write::write_all(&mut packed, &content).unwrap();
        fs::write(folder.path().join("two.gz"), packed.finish().unwrap()).unwrap();
        describe(&folder, "kind = 'idx'\npath = 'two'")
    };
    assert_eq!(open(&file(12)).unwrap().len(), 2);
    for (values, follow) in [
        (11, "11 bytes follow"),
        (50_000_000, "more bytes than that follow"),
    ] {
        let error = open(&file(values)).unwrap_err().to_string();
        assert!(error.contains("[2, 2, 3]") && error.contains(follow), "{error}");
    }
    // Pictures in color are no type of their own, but have a dimension more.
    fs::write(folder.path().join("four"), [0, 0, 8, 4, 0, 0, 0, 1]).unwrap();
    let error = refused(&folder, "kind = 'idx'\npath = 'four'");
    assert!(
        error.ends_with("it must have 1 dimension (labels) or 3 (gray pictures), got 4"),
        "{error}"
    );
    fs::write(folder.path().join("two.gz"), [0x1f, 0x8b, 1]).unwrap();
    let error = refused(&folder, "kind = 'idx'\npath = 'two'");
    assert!(error.contains("damaged gzip"), "{error}");
}

/// Pictures `a.bmp`, `b.bmp` and so on in a folder.
fn pictures(folder: &Path, names: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    for (seed, name) in names.iter().enumerate() {
        fs::write(folder.join(name), picture(seed as u64)).unwrap();
    }
}

#[test]
fn voc_gives_sets_of_classes_and_leaves_difficult_ones_open() {
    let folder = tempfile::tempdir().unwrap();
    pictures(
        &folder.path().join("JPEGImages"),
        &["000001.jpg", "000002.jpg", "000003.jpg"],
    );
    let annotations = folder.path().join("Annotations");
    fs::create_dir(&annotations).unwrap();
    let write = |name: &str, objects: &[(&str, u8)]| {
        let objects: String = objects
            .iter()
            .map(|(class, difficult)| {
                format!("<object><name>{class}</name><difficult>{difficult}</difficult></object>")
            })
            .collect();
        fs::write(
            annotations.join(format!("{name}.xml")),
            format!("<annotation>{objects}</annotation>"),
        )
        .unwrap();
    };
    write("000001", &[("dog", 0), ("cat", 1), ("dog", 1)]);
    write("000002", &[("person", 1)]);
    write("000003", &[]);
    let lists = folder.path().join("ImageSets/Main");
    fs::create_dir_all(&lists).unwrap();
    fs::write(lists.join("test.txt"), "000002\n000001\n").unwrap();
    let text = "kind = 'voc'\npath = '.'\nlist = 'test'\nclasses = ['cat', 'dog', 'person']";
    let data = open(&describe(&folder, text)).unwrap();
    assert_eq!((data.len(), data.key(0).unwrap()), (2, "000001".into()));
    // The third picture is annotated, so it belongs to another list.
    assert!(data.listing().is_empty());
    pictures(&folder.path().join("JPEGImages"), &["000004.jpg"]);
    let data = open(&describe(&folder, text)).unwrap();
    assert_eq!(
        data.listing().example(crate::Reason::NotListed),
        Some("000004.jpg")
    );
    assert_eq!(data.label(0).unwrap(), Some(Label::Classes(vec![1])));
    assert_eq!(data.undecided(0), [0]);
    assert_eq!(data.label(1).unwrap(), Some(Label::Classes(vec![])));
    assert_eq!(data.undecided(1), [2]);
    let all = open(&describe(&folder, "kind = 'voc'\npath = '.'")).unwrap();
    assert_eq!((all.len(), all.class_names().len()), (3, 3));
    assert!(refused(&folder, &text.replace("'cat', ", "")).contains("class `cat` is none of the 2 classes"));
    let error = open(&describe(&folder, &text.replace("'test'", "'tset'")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("tset.txt"), "{error}");
    fs::remove_file(folder.path().join("JPEGImages/000002.jpg")).unwrap();
    assert!(refused(&folder, text).contains("lists `000002.jpg`, which is not in"));
}

#[test]
fn coco_gives_sets_of_classes_or_one() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path(), &["b.bmp", "a.bmp"]);
    let json = r#"{"images": [{"id": 5, "file_name": "b.bmp"}, {"id": 9, "file_name": "a.bmp"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [{"image_id": 5, "category_id": 18, "area": 9.0, "bbox": [0, 0, 3, 3]},
                        {"image_id": 5, "category_id": 3, "area": 0.0, "bbox": [0, 0, 3, 3]},
                        {"image_id": 9, "category_id": 3}]}"#;
    fs::write(folder.path().join("a.json"), json).unwrap();
    let text = "kind = 'coco'\npath = '.'\nlabels = 'a.json'";
    let data = open(&describe(&folder, text)).unwrap();
    assert_eq!(data.class_names(), ["car", "dog"]);
    assert_eq!(
        [data.label(0).unwrap(), data.label(1).unwrap()],
        [Some(Label::Classes(vec![0])), Some(Label::Classes(vec![1]))]
    );
    let one = format!("{text}\none_class = true");
    assert_eq!(
        open(&describe(&folder, &one)).unwrap().label(1).unwrap(),
        Some(Label::Class(1))
    );
    let broken = |from: &str, to: &str| {
        fs::write(folder.path().join("a.json"), json.replace(from, to)).unwrap();
        refused(&folder, &one)
    };
    assert!(broken("\"area\": 0.0", "\"area\": 4.0").contains("image `b.bmp` has 2 classes"));
    assert!(broken("\"image_id\": 9", "\"image_id\": 8").contains("of image 8 and category 3"));
    assert!(broken("\"id\": 18", "\"id\": 3").contains("lists category 3 twice, as `dog` and as `car`"));
    assert!(broken("\"images\"", "\"imgs\"").contains("missing field `images`"));
    assert!(broken("a.bmp", "../a.bmp").contains("leads out of"));
}

#[test]
fn tables_of_paths_and_labels_are_read_in_their_usual_forms() {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("img"), &["b.bmp", "a.bmp", "c.bmp"]);
    let table = |text: &str| fs::write(folder.path().join("t.csv"), text).unwrap();
    let labels = |text: &str| -> Vec<Option<Label>> {
        let data = open(&describe(&folder, text)).unwrap();
        (0..data.len()).map(|at| data.label(at).unwrap()).collect()
    };
    let class = |class| Some(Label::Class(class));
    // Names, with a header and a split.
    table("file,species,split\nimg/b.bmp,oak,train\nimg/a.bmp,elm,train\nimg/c.bmp,oak,test\n");
    let named = "kind = 'csv'\npath = '.'\nlabels = 't.csv'\nimage_column = 'file'\nlabel_column = 'species'";
    assert_eq!(labels(named), [class(0), class(1), class(1)]);
    assert_eq!(
        labels(&format!("{named}\nonly = {{ split = 'train' }}")),
        [class(0), class(1)]
    );
    assert_eq!(
        labels(&format!("{named}\nclasses = ['oak', 'elm']")),
        [class(1), class(0), class(0)]
    );
    assert!(
        refused(&folder, &format!("{named}\nclasses = ['oak']")).contains(
            "class `elm` (`img/a.bmp`) is none of the 1 classes of the data-set description: `oak`"
        )
    );
    assert!(
        refused(&folder, &named.replace("'species'", "'genus'"))
            .contains("has no column `genus`, it has: `file`, `species`, `split`")
    );
    let error = refused(&folder, &format!("{named}\nonly = {{ split = 'val' }}"));
    assert!(error.ends_with("no row in it has split = val"), "{error}");
    // Places205's: numbers after a blank, no header.
    table("b.bmp 3\na.bmp 0\n");
    let places =
        "kind = 'csv'\npath = 'img'\nlabels = 't.csv'\nimage_column = 0\nlabel_column = 1\nseparator = ' '";
    assert_eq!(labels(places), [class(0), class(3)]);
    // Several classes.
    table("a.bmp,2|0\nb.bmp,\n");
    let several = "kind = 'csv'\npath = 'img'\nlabels = 't.csv'\nimage_column = 0\nlabel_column = 1\nlabel_separator = '|'";
    assert_eq!(
        labels(several),
        [Some(Label::Classes(vec![0, 2])), Some(Label::Classes(vec![]))]
    );
    let one = several.replace("\nlabel_separator = '|'", "");
    assert!(refused(&folder, &one).contains("line 2 (`b.bmp`) has no label"));
    table("a.bmp,1\na.bmp,2\n");
    assert!(refused(&folder, &one).contains("`a.bmp` is listed twice"));
    table("a.bmp,1\nd.bmp,2\n");
    assert!(refused(&folder, &one).contains("lists `d.bmp`, which is not in"));
    table("a.bmp,1\nb.bmp\n");
    assert!(refused(&folder, &one).contains("not a table"));
    assert!(
        refused(&folder, &one.replace("label_column = 1", "label_column = 'x'")).contains("all by number")
    );
}

/// An unclosed quote would swallow the rows after it, and the data set would silently be smaller.
#[test]
fn a_table_with_an_unpaired_quote_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path(), &["a.bmp", "b.bmp", "c.bmp"]);
    fs::write(folder.path().join("t.csv"), "a.bmp,oak\nb.bmp,\"elm\nc.bmp,oak\n").unwrap();
    let text = "kind = 'csv'\npath = '.'\nlabels = 't.csv'\nimage_column = 0\nlabel_column = 1";
    let error = refused(&folder, text);
    assert!(
        error.contains("not a table: line 2: a quoted field begins here"),
        "{error}"
    );
}

#[test]
#[cfg_attr(
    not(feature = "real-inputs"),
    ignore = "reads real inputs: CONTRIBUTING.md says which"
)]
fn real_voc_annotations_are_read() {
    let real =
        std::env::var_os("PASSER_TEST_DATA").expect("PASSER_TEST_DATA must name the folder of real inputs");
    let folder = tempfile::tempdir().unwrap();
    let archive = File::open(Path::new(&real).join("raccoon-voc.tar")).unwrap();
    tar::Archive::new(archive).unpack(folder.path()).unwrap();
    let mut root = folder.path().to_path_buf();
    if !root.join("annotations").is_dir() {
        root = files::list(&root)
            .unwrap()
            .into_iter()
            .find(|path| path.is_dir())
            .unwrap();
    }
    let text = format!(
        "kind = 'voc'\npath = '{}'\nimages = 'images'\nannotations = 'annotations'",
        root.display()
    );
    let data = open(&describe(&folder, &text)).unwrap();
    assert_eq!(
        (data.len(), data.class_names()),
        (200, ["raccoon".to_string()].as_slice())
    );
    assert!((0..200).all(|at| data.label(at).unwrap() == Some(Label::Classes(vec![0]))));

    // The same with boxes: what every file states of its picture is so, and each box is a raccoon within it.
    let described = folder.path().join("data.toml");
    let data = Dataset::open_with_objects(described.to_str().unwrap()).unwrap();
    let mut image = Vec::new();
    let mut objects = 0;
    for position in 0..200 {
        let targets = data.targets(position).unwrap().unwrap();
        data.read_image(position, &mut image).unwrap();
        let picture = crate::decode(&image, &crate::DecodeLimits::DEFAULT).unwrap();
        assert_eq!((targets.width, targets.height), (picture.width, picture.height));
        objects += targets.objects.len();
        for object in &targets.objects {
            let [left, top, right, bottom] = object.bounding_box.edges();
            assert!(0.0 <= left && left < right && right <= picture.width as f32);
            assert!(0.0 <= top && top < bottom && bottom <= picture.height as f32);
            assert_eq!((object.class, object.is_crowd), (0, false));
        }
    }
    assert_eq!(objects, 217);
    eprintln!("{:?}", data.listing().lines());
}
