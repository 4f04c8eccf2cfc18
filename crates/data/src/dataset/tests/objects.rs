//! Boxes and masks of COCO, VOC, YOLO and shards: read, checked, counted, packed; and their bad files.

use std::sync::Arc;

use super::*;
use crate::targets::{BoundingBox, ImageTargets, Segmentation};
use crate::{Hint, Reason};

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A folder with pictures of 8 x 6 px and a description.
fn folder(pictures: &[&str], description: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in pictures.iter().enumerate() {
        write(folder.path(), name, picture(number as u64));
    }
    write(folder.path(), "data.toml", description);
    folder
}

fn with_objects(folder: &TempDir) -> Result<Dataset, Error> {
    Dataset::open_with_objects(folder.path().join("data.toml").to_str().unwrap())
}

fn refused(folder: &TempDir) -> String {
    with_objects(folder).unwrap_err().to_string()
}

const COCO: &str = "kind = 'coco'\npath = 'images'\nlabels = 'a.json'";

fn coco(annotations: &str) -> TempDir {
    let folder = folder(&["images/a.bmp", "images/b.bmp", "images/c.bmp"], COCO);
    write(folder.path(), "a.json", coco_json(annotations));
    folder
}

/// The pictures in another order than by path, the categories with gaps, one annotation's key before the others.
fn coco_json(annotations: &str) -> String {
    format!(
        r#"{{"info":{{"year":2017}},"annotations":[{annotations}],
        "images":[{{"id":30,"file_name":"c.bmp","width":8,"height":6}},{{"id":10,"file_name":"a.bmp","width":8,"height":6}},
        {{"id":20,"file_name":"b.bmp"}}],
        "categories":[{{"id":90,"name":"dog"}},{{"id":3,"name":"cat"}}]}}"#
    )
}

fn edges(left: f32, top: f32, right: f32, bottom: f32) -> BoundingBox {
    BoundingBox {
        left,
        top,
        right,
        bottom,
    }
}

fn targets(data: &Dataset, position: usize) -> ImageTargets {
    data.targets(position).unwrap().unwrap()
}

const GOOD: &str = r#"
    {"id":7,"image_id":30,"category_id":90,"bbox":[1,2,3.5,4],"area":9.5,"iscrowd":0,
     "segmentation":[[1,2,4.5,2,4.5,6,1,6]],"keypoints":[1,2,2],"num_keypoints":1},
    {"id":9,"image_id":10,"category_id":3,"bbox":[0,0,8,6],"area":10,"iscrowd":1,
     "segmentation":{"size":[6,8],"counts":[10,10,28]}},
    {"id":8,"image_id":30,"category_id":3,"bbox":[7,5,1,1]}"#;

#[test]
fn cocos_objects_are_read_in_the_order_of_the_records() {
    let data = with_objects(&coco(GOOD)).unwrap();
    assert_eq!(data.class_names(), ["cat", "dog"]);
    assert_eq!([data.category_id(0), data.category_id(1)], [3, 90]);
    assert_eq!(data.class_of_category(90), Some(1));
    assert_eq!(data.class_of_category(4), None);
    let crowd = targets(&data, 0);
    assert_eq!((crowd.image_id, crowd.width, crowd.height), (10, 8, 6));
    assert!(crowd.objects[0].is_crowd && !crowd.objects[0].is_trained_on());
    let Some(Segmentation::Rle(rle)) = &crowd.objects[0].segmentation else {
        panic!("a crowd has run lengths");
    };
    assert_eq!((rle.runs(), rle.width(), rle.height()), (&[10, 10, 28][..], 8, 6));
    // A picture without objects, and without its size in the file.
    assert_eq!(
        targets(&data, 1),
        ImageTargets {
            image_id: 20,
            width: 8,
            height: 6,
            objects: vec![]
        }
    );
    let two = targets(&data, 2);
    let [dog, cat] = &two.objects[..] else {
        panic!("two objects in the file's order")
    };
    assert_eq!((dog.id, dog.class, dog.area), (7, 1, 9.5));
    assert_eq!(dog.bounding_box, edges(1.0, 2.0, 4.5, 6.0));
    assert_eq!(dog.segmentation.as_ref().unwrap().to_rle(8, 6).area(), 16);
    assert_eq!(
        (cat.id, cat.class, cat.area),
        (8, 0, 1.0),
        "an area that is not stated is the box's"
    );
    assert_eq!(cat.bounding_box, edges(7.0, 5.0, 8.0, 6.0), "a box of one pixel");
    assert!(data.listing().is_empty(), "{:?}", data.listing());
    // Labels of pictures are what they were: without crowds' or objects' boxes of one pixel.
    let labels = Dataset::open(coco(GOOD).path().join("data.toml").to_str().unwrap()).unwrap();
    assert!(!labels.has_objects());
    assert_eq!(labels.targets(0).unwrap(), None);
    assert_eq!(labels.label(2).unwrap(), data.label(2).unwrap());
}

#[test]
fn records_without_an_object_to_train_on_are_left_out_and_counted() {
    let data = Arc::new(with_objects(&coco(GOOD)).unwrap());
    let training = Dataset::with_objects_to_train_on(&data).unwrap();
    assert_eq!((training.len(), training.key(0).unwrap()), (1, "c".to_string()));
    assert_eq!(targets(&training, 0), targets(&data, 2));
    assert_eq!(training.listing().example(Reason::OnlyCrowds), Some("a"));
    assert_eq!(training.listing().example(Reason::NoObject), Some("b"));
    let crowds = r#"{"id":9,"image_id":10,"category_id":3,"bbox":[0,0,8,6],"iscrowd":1}"#;
    let crowds = Arc::new(with_objects(&coco(crowds)).unwrap());
    let error = Dataset::with_objects_to_train_on(&crowds)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("`data` must have a picture with an object to train on, got none")
            && error.contains("1 (such as `a`), a picture of crowds alone"),
        "{error}"
    );
}

#[test]
fn useless_objects_are_left_out_and_counted_with_an_example() {
    let object = |id: u32, rest: &str| format!(r#"{{"id":{id},"image_id":10,"category_id":3,{rest}}}"#);
    let annotations = [
        object(1, r#""bbox":[1,1,4,4]"#),
        object(2, r#""bbox":[8.5,1,4,4]"#),
        object(3, r#""bbox":[-5,1,4,4]"#),
        object(4, r#""bbox":[1,1,0,4]"#),
        object(5, r#""bbox":[1,1,3,-4]"#),
        object(6, r#""bbox":[1,1,1e400,4]"#).replace("1e400", "1e308"),
        object(7, r#""bbox":[-1,1,4,9]"#),
        object(8, r#""bbox":[1,1,4,4],"segmentation":[[1,1,2,2]]"#),
        object(
            9,
            r#""bbox":[1,1,4,4],"segmentation":[[1,1,2,2],[1,1,5,1,5,5],[1,1,5,1,5,5,1]]"#,
        ),
        object(
            10,
            r#""bbox":[1,1,4,4],"segmentation":{"size":[8,6],"counts":[10,10,28]}"#,
        ),
        object(
            11,
            r#""bbox":[1,1,4,4],"segmentation":{"size":[6,8],"counts":[10,10]}"#,
        ),
        object(12, r#""area":3"#),
        object(13, r#""bbox":[1,1,4,4.999999],"segmentation":[]"#),
        object(14, r#""bbox":[1,1,4,5.000001]"#),
    ];
    let data = with_objects(&coco(&annotations.join(","))).unwrap();
    let ids: Vec<u64> = targets(&data, 0).objects.iter().map(|object| object.id).collect();
    assert_eq!(ids, [1, 6, 7, 9, 13, 14]);
    assert_eq!(
        targets(&data, 0).objects[2].bounding_box,
        edges(0.0, 1.0, 3.0, 6.0)
    );
    assert_eq!(
        targets(&data, 0).objects[5].bounding_box,
        edges(1.0, 1.0, 5.0, 6.0)
    );
    let kept = targets(&data, 0);
    let Some(Segmentation::Polygons(polygons)) = &kept.objects[3].segmentation else {
        panic!("one polygon is left");
    };
    assert_eq!(polygons.len(), 1);
    let listing = data.listing();
    let counts: Vec<_> = listing
        .notes()
        .iter()
        .map(|note| (note.reason, note.count, note.example.as_str()))
        .collect();
    assert_eq!(
        counts,
        [
            (Reason::ObjectWithoutBox, 1, "a: object 12"),
            (Reason::BoxWithoutSize, 2, "a: object 4"),
            (Reason::BoxOutside, 2, "a: object 2"),
            (Reason::BadPolygon, 3, "a: object 8"),
            (
                Reason::MaskOfOtherSize,
                1,
                "a: object 10: 6 x 8 px in a picture of 8 x 6 px"
            ),
            (
                Reason::BadMask,
                1,
                "a: object 11: the runs of a mask of 8 x 6 px must cover 48 px, got 20"
            ),
            (Reason::BoxClipped, 2, "a: object 6"),
        ]
    );
    let line = &listing.lines()[2];
    assert_eq!(
        line,
        "objects whose box is outside of the picture were skipped: 2 (such as `a: object 2`); check whether the boxes \
         belong to pictures of this size"
    );
}

#[test]
fn ids_that_metrics_cannot_use_are_replaced_together() {
    for ids in [["1", "1"], ["0", "5"], ["null", "5"]] {
        let [one, two] =
            ids.map(|id| format!(r#"{{"id":{id},"image_id":10,"category_id":3,"bbox":[1,1,4,4]}}"#));
        let data = with_objects(&coco(&format!("{one},{two}"))).unwrap();
        let ids: Vec<u64> = targets(&data, 0).objects.iter().map(|object| object.id).collect();
        assert_eq!(ids, [1, 2]);
    }
}

#[test]
fn bad_files_of_coco_are_errors_that_name_the_file_and_the_thing() {
    let whole = coco_json(GOOD);
    for (text, part) in [
        (
            whole[..whole.len() / 2].to_string(),
            "a.json`: cut: EOF while parsing",
        ),
        (
            whole[..whole.len() - 2].to_string(),
            "a.json`: cut: EOF while parsing",
        ),
        (
            whole.replace("[1,2,3.5,4]", "[1,2,NaN,4]"),
            "a.json`: has NaN or Infinity, which JSON does not have: expected value at line 2",
        ),
        (
            whole.replace("[1,2,3.5,4]", "[1,2,-Infinity,4]"),
            "a.json`: has NaN or Infinity, which JSON does not have",
        ),
        (
            whole.replace("[1,2,3.5,4]", "[1,2,3.5]"),
            "invalid length 3, expected `bbox` of 4 numbers",
        ),
        (whole.replace("[1,2,3.5,4]", "[1,2,null,4]"), "invalid type: null"),
        (
            whole.replace(r#""category_id":90"#, r#""category_id":91"#),
            "an annotation is of image 30 and category 91, of which it lists no such one",
        ),
        (
            whole.replace(r#""image_id":10"#, r#""image_id":11"#),
            "an annotation is of image 11 and category 3, of which it lists no such one",
        ),
        (whole.replace("c.bmp", "d.bmp"), "lists `d.bmp`, which is not in"),
        (
            whole.replace(r#""id":3,"#, r#""id":90,"#),
            "lists category 90 twice",
        ),
        (
            whole
                .replace("[1,2,3.5,4]", "[0.1,0.2,0.4,0.5]")
                .replace("[0,0,8,6]", "[0,0,1,1]")
                .replace("[7,5,1,1]", "[0.5,0.5,0.5,0.25]"),
            "every `bbox` lies within 0 to 1, so they are probably shares of the picture's sides; they must be in pixels",
        ),
        (
            whole.replace("[[1,2,4.5,2,4.5,6,1,6]]", "[1,2,4.5,2]"),
            "expected a sequence",
        ),
    ] {
        let folder = coco("");
        write(folder.path(), "a.json", &text);
        let error = with_objects(&folder).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        if part.contains("cut") {
            assert_eq!(error.hint(), Some(Hint::DownloadAgain));
        }
    }
    // A picture that the file does not list.
    let folder = coco(GOOD);
    write(folder.path(), "images/z.bmp", picture(9));
    let data = with_objects(&folder).unwrap();
    assert_eq!(data.listing().example(Reason::NotListed), Some("z.bmp"));
}

const VOC: &str = "kind = 'voc'\npath = '.'";

fn voc(objects: &str, size: &str) -> TempDir {
    let folder = folder(&["JPEGImages/a.bmp", "JPEGImages/b.bmp"], VOC);
    let text = format!("<annotation>{size}{objects}</annotation>");
    write(folder.path(), "Annotations/a.xml", text);
    write(folder.path(), "Annotations/b.xml", "<annotation/>");
    folder
}

fn voc_object(name: &str, difficult: u32, [left, top, right, bottom]: [&str; 4]) -> String {
    format!(
        "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>\
         <xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
    )
}

#[test]
fn vocs_objects_are_read_with_their_edges() {
    let objects = [
        voc_object("dog", 0, ["1", "1", "8", "6"]),
        voc_object("cat", 1, ["3", "4", "3", "4"]),
        voc_object("cat", 0, ["nan", "4", "3", "4"]),
        voc_object("cat", 0, ["5", "4", "4", "4"]),
        "<object><name>cat</name></object>".to_string(),
    ];
    let folder = voc(
        &objects.concat(),
        "<size><width>8</width><height>6</height></size>",
    );
    let data = with_objects(&folder).unwrap();
    let both = targets(&data, 0);
    assert_eq!((both.width, both.height, both.objects.len()), (8, 6, 2));
    assert_eq!(both.objects[0].bounding_box, edges(0.0, 0.0, 8.0, 6.0));
    assert_eq!((both.objects[0].class, both.objects[0].is_difficult), (1, false));
    assert_eq!(
        both.objects[1].bounding_box,
        edges(2.0, 3.0, 3.0, 4.0),
        "one pixel"
    );
    assert!(both.objects[1].is_difficult && both.objects[1].is_trained_on());
    assert_eq!(
        both.objects.iter().map(|object| object.id).collect::<Vec<_>>(),
        [1, 2]
    );
    // The size is the picture's header's where no file states it.
    let empty = targets(&data, 1);
    assert_eq!((empty.width, empty.height, empty.objects.len()), (8, 6, 0));
    let listing = data.listing();
    assert_eq!(listing.count(Reason::BoxNotFinite), 1);
    assert_eq!(listing.count(Reason::BoxWithoutSize), 1);
    assert_eq!(listing.example(Reason::ObjectWithoutBox), Some("a: object 5"));
    assert_eq!([data.category_id(0), data.category_id(1)], [1, 2]);
}

#[test]
fn bad_annotations_of_voc_are_errors_that_name_the_file_and_the_thing() {
    for (objects, part) in [
        (
            voc_object("dog", 0, ["x", "1", "8", "6"]),
            "a.xml`: `xmin` of an object `dog` must be a number, got `x`",
        ),
        (
            voc_object("dog", 0, ["0.1", "0.2", "0.5", "0.9"]),
            "every `bndbox` lies within 0 to 1",
        ),
        (
            "<object><name>dog</name><bndbox>".to_string(),
            "a.xml`: not a VOC annotation",
        ),
    ] {
        let error = refused(&voc(&objects, ""));
        assert!(error.contains(part), "{error}");
    }
}

const YOLO: &str = "kind = 'yolo'\npath = '.'\nimages = 'images/train'";

fn yolo(lines: &str) -> TempDir {
    let folder = folder(
        &["images/train/a.bmp", "images/train/x/b.bmp", "images/train/c.bmp"],
        YOLO,
    );
    write(folder.path(), "labels/train/a.txt", lines);
    write(folder.path(), "labels/train/x/b.txt", "");
    write(folder.path(), "labels/train/gone.txt", "0 0.5 0.5 1 1");
    write(folder.path(), "data.yaml", "names:\n  0: cat\n  1: dog\n");
    folder
}

#[test]
fn yolos_shares_become_pixels() {
    let data = with_objects(&yolo(
        "1 0.5 0.5 0.25 1.0\r\n\n0 0.125 0.0 0.875 0.0 0.5 1.0\n0 0.9 0.5 0.5 0.5\n",
    ))
    .unwrap();
    assert_eq!(data.class_names(), ["cat", "dog"]);
    assert_eq!(data.label(0).unwrap(), Some(Label::Classes(vec![0, 1])));
    let three = targets(&data, 0);
    assert_eq!(three.objects[0].bounding_box, edges(3.0, 0.0, 5.0, 6.0));
    assert_eq!((three.objects[0].class, three.objects[0].area), (1, 12.0));
    assert_eq!(three.objects[1].bounding_box, edges(1.0, 0.0, 7.0, 6.0));
    let mask = three.objects[1].segmentation.as_ref().unwrap().to_rle(8, 6);
    assert_eq!(three.objects[1].area, mask.area() as f64);
    assert!((15..=21).contains(&mask.area()), "half of 36: {}", mask.area());
    assert_eq!(three.objects[2].bounding_box.right, 8.0);
    assert_eq!(
        (targets(&data, 1).objects.len(), targets(&data, 2).objects.len()),
        (0, 0)
    );
    let listing = data.listing();
    assert_eq!(listing.example(Reason::NoBoxes), Some("c.bmp"));
    assert_eq!(listing.example(Reason::BoxesAlone), Some("gone.txt"));
    assert_eq!(listing.example(Reason::BoxClipped), Some("a: object 3"));
    assert_eq!(listing.notes().len(), 3, "{listing:?}");
}

#[test]
fn bad_files_of_yolo_are_errors_that_name_the_file_and_the_line() {
    for (lines, part) in [
        (
            "0 0.5 0.5 1 1\n2 0.5 0.5 1 1",
            "a.txt`: line 2: the class must be below 2, the number of names, got 2",
        ),
        (
            "0 4 3 8 6",
            "a.txt`: line 1: numbers must be shares of the picture's sides, 0 to 1, got 4",
        ),
        (
            "0 0.5 0.5 1",
            "a.txt`: line 1: must be `class cx cy width height`",
        ),
    ] {
        let error = refused(&yolo(lines));
        assert!(error.contains(part), "{error}");
    }
    let folder = yolo("");
    for (names, part) in [
        (
            "nc: 3\nnames: [cat, dog]\n",
            "data.yaml`: `nc` must be the number of `names`, 2, got 3",
        ),
        (
            "names: [cat, dog, cat]\n",
            "data.yaml`: `names` must name each class once, got `cat` twice",
        ),
    ] {
        write(folder.path(), "data.yaml", names);
        let error = refused(&folder);
        assert!(error.contains(part), "{error}");
    }
    fs::remove_file(folder.path().join("data.yaml")).unwrap();
    assert!(refused(&folder).contains("no names of classes: expected `data.yaml` or `classes.txt`"));
    write(folder.path(), "classes.txt", "cat\ndog\n");
    assert_eq!(with_objects(&folder).unwrap().class_names(), ["cat", "dog"]);
    fs::remove_dir_all(folder.path().join("labels")).unwrap();
    fs::create_dir_all(folder.path().join("labels/train")).unwrap();
    assert!(refused(&folder).contains("has no text file of any picture"));
}

#[test]
fn shards_hold_what_was_packed() {
    let uncompressed = r#",{"id":21,"image_id":30,"category_id":3,"bbox":[0.1,0.2,3.3,2.7],"area":3,"segmentation":[[0.1,0.2,3.4,0.2,3.4,2.9]]}"#;
    let folder = coco(&format!("{GOOD}{uncompressed}"));
    let data = with_objects(&folder).unwrap();
    let out = folder.path().join("shards");
    pack(
        folder.path().join("data.toml").to_str().unwrap(),
        &out,
        &options(2),
        &|_, _| {},
    )
    .unwrap();
    let packed = Dataset::open_with_objects(out.to_str().unwrap()).unwrap();
    assert_eq!(packed.class_names(), data.class_names());
    for position in 0..3 {
        assert_eq!(targets(&packed, position), targets(&data, position));
    }
    // Packed again from the shards, and from a part of them.
    let again = folder.path().join("again");
    let half = Dataset::part(&Arc::new(packed), vec![2, 0]).unwrap();
    pack_dataset(&half, &again, &options(9), &|_, _| {}).unwrap();
    let again = Dataset::open_with_objects(again.to_str().unwrap()).unwrap();
    assert_eq!(targets(&again, 0), targets(&data, 2));
    assert_eq!(targets(&again, 1), targets(&data, 0));
}

#[test]
fn bad_objects_in_shards_are_errors_that_name_the_record() {
    let shard = |json: &str| {
        let folder = tempfile::tempdir().unwrap();
        let image = picture(0);
        tar_with(
            &folder.path().join("x-0.tar"),
            &[
                ("a.bmp", &image[..]),
                ("a.json", json.as_bytes()),
                ("b.bmp", &image[..]),
            ],
        );
        write(
            folder.path(),
            "dataset.toml",
            "kind = 'shards'\npath = '.'\nclasses = ['cat']",
        );
        let opened = Dataset::open_with_objects(folder.path().to_str().unwrap());
        (folder, opened)
    };
    let (_folder, data) = shard(r#"{"objects":[{"class":0,"bbox":[1,2,3,4]}]}"#);
    let data = data.unwrap();
    let one = targets(&data, 0);
    assert_eq!((one.width, one.height), (8, 6), "the header's");
    assert_eq!(one.objects[0].bounding_box, edges(1.0, 2.0, 4.0, 6.0));
    assert_eq!(data.listing().example(Reason::NoBoxes), Some("b"));
    for (json, part) in [
        (
            r#"{"objects":[{"class":1,"bbox":[1,2,3,4]}]}"#,
            "record `a`: `objects` of its metadata: `class` must be below 1, the number of names, got 1",
        ),
        (
            r#"{"objects":[{"class":0,"box":[1,2,3,4]}]}"#,
            "record `a`: `objects` of its metadata: unknown field `box`",
        ),
        (
            r#"{"objects":{}}"#,
            "record `a`: `objects` of its metadata: invalid type",
        ),
        (
            r#"{"objects":[{"class":0,"bbox":[0.1,0.2,0.3,0.4]}]}"#,
            "lies within 0 to 1",
        ),
        (r#"{"photographer":"A"}"#, "has no boxes; expected"),
    ] {
        let error = shard(json).1.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn data_without_boxes_are_refused() {
    let folder = class_folder();
    let error = Dataset::open_with_objects(folder.path().to_str().unwrap()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has no boxes; expected a description of kind `coco`, `voc` or `yolo`, or shards with `objects` in their `KEY.json`"),
        "{error}"
    );
}
