//! Handmade checkpoints, valid and hostile. `import/tests.rs` reads PyTorch's own files.

mod arrays;
mod limits;

use std::io::Cursor;

use super::*;

fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(&mut Cursor::new(bytes))
}

fn refused(bytes: &[u8]) -> String {
    open(bytes).unwrap_err().to_string()
}

/// The parts of a pickle.
mod make {
    pub(super) fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    pub(super) fn int(number: i128) -> Vec<u8> {
        [&[0x8a, 16][..], &number.to_le_bytes()].concat()
    }

    pub(super) fn name(module: &str, name: &str) -> Vec<u8> {
        format!("c{module}\n{name}\n").into_bytes()
    }

    pub(super) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
        [b"(", &items.concat()[..], b"t"].concat()
    }

    pub(super) fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let items = items
            .iter()
            .flat_map(|(key, value)| [text(key), value.clone()].concat());
        [b"}(", &items.collect::<Vec<_>>()[..], b"u"].concat()
    }

    pub(super) fn call(function: Vec<u8>, arguments: &[Vec<u8>]) -> Vec<u8> {
        [function, tuple(arguments), b"R".to_vec()].concat()
    }

    pub(super) fn storage(kind: &str, key: &str, elements: i128) -> Vec<u8> {
        let parts = [
            text("storage"),
            name("torch", kind),
            text(key),
            text("cpu"),
            int(elements),
        ];
        [tuple(&parts), b"Q".to_vec()].concat()
    }

    /// `_rebuild_tensor_v2` of a storage.
    pub(super) fn tensor(storage: Vec<u8>, offset: i128, shape: &[i128], strides: &[i128]) -> Vec<u8> {
        let numbers = |numbers: &[i128]| tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>());
        let hooks = call(name("collections", "OrderedDict"), &[]);
        let arguments = [
            storage,
            int(offset),
            numbers(shape),
            numbers(strides),
            b"\x89".to_vec(),
            hooks,
        ];
        call(name("torch._utils", "_rebuild_tensor_v2"), &arguments)
    }

    pub(super) fn pickle(body: Vec<u8>) -> Vec<u8> {
        [b"\x80\x02", &body[..], b"."].concat()
    }

    /// A legacy file: each storage is its key, its declared number of elements, and its bytes.
    pub(super) fn legacy(body: Vec<u8>, storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
        let mut file = pickle(int(0x1950_a86a_20f9_469c_fc6c));
        file.extend(pickle(int(1001)));
        file.extend(pickle(dict(&[("little_endian", b"\x88".to_vec())])));
        file.extend(pickle(body));
        let keys = storages
            .iter()
            .flat_map(|(key, ..)| text(key))
            .collect::<Vec<_>>();
        file.extend(pickle([b"](", &keys[..], b"e"].concat()));
        for (_, elements, bytes) in storages {
            file.extend(elements.to_le_bytes());
            file.extend(*bytes);
        }
        file
    }

    /// A zip archive of stored members; `change` may corrupt a member's table entry (46 bytes and the name).
    pub(super) fn zip(members: &[(&str, &[u8])], change: impl Fn(&str, &mut [u8])) -> Vec<u8> {
        let (mut file, mut table) = (vec![], vec![]);
        for (name, bytes) in members {
            let start = file.len() as u32;
            let size = bytes.len() as u32;
            let sizes = [size.to_le_bytes(), size.to_le_bytes()].concat();
            let names = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
            let crc = crc32fast::hash(bytes).to_le_bytes();
            // Version, flags, method, time, date.
            let head = [10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            file.extend(
                [
                    b"PK\x03\x04",
                    &head[..],
                    &crc,
                    &sizes,
                    &names,
                    name.as_bytes(),
                    bytes,
                ]
                .concat(),
            );
            let mut entry = [b"PK\x01\x02\x00\x00", &head[..], &crc, &sizes, &names].concat();
            entry.extend([0; 10]);
            entry.extend(start.to_le_bytes());
            entry.extend(name.as_bytes());
            change(name, &mut entry);
            table.extend(entry);
        }
        let (start, count) = (file.len() as u32, members.len() as u16);
        file.extend(&table);
        file.extend(
            [
                b"PK\x05\x06\0\0\0\0",
                &count.to_le_bytes()[..],
                &count.to_le_bytes(),
            ]
            .concat(),
        );
        file.extend([(table.len() as u32).to_le_bytes(), start.to_le_bytes()].concat());
        file.extend([0; 2]);
        file
    }

    /// PyTorch's archive of one object and one storage `0`.
    pub(super) fn archive(body: Vec<u8>, storage: &[u8]) -> Vec<u8> {
        let pickle = pickle(body);
        zip(
            &[
                ("a/data.pkl", &pickle),
                ("a/byteorder", b"little"),
                ("a/data/0", storage),
            ],
            |_, _| {},
        )
    }
}
use make::{archive, call, dict, int, legacy, name, pickle, storage, tensor, text, tuple, zip};

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn values(file: &[u8], tensor: &str) -> Vec<f32> {
    let mut source = Cursor::new(file);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    let tensors = checkpoint.tensors();
    let (_, info) = tensors.iter().find(|(name, _)| name == tensor).unwrap();
    let data = info.read(&mut source).unwrap();
    assert_eq!(data.shape().to_vec(), info.shape);
    data.iter::<f32>().collect()
}

#[test]
fn views_read_as_pytorch_shows_them() {
    // Six values: unchanged, transposed, a column, a scalar, one row repeated.
    let s = || storage("FloatStorage", "0", 6);
    let body = dict(&[
        ("whole", tensor(s(), 0, &[2, 3], &[3, 1])),
        ("turned", tensor(s(), 0, &[3, 2], &[1, 3])),
        ("column", tensor(s(), 1, &[2], &[3])),
        ("scalar", tensor(s(), 5, &[], &[])),
        ("repeated", tensor(s(), 0, &[2, 3], &[0, 1])),
        ("empty", tensor(s(), 6, &[0, 3], &[3, 1])),
    ]);
    let numbers = bytes_of(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    for file in [
        archive(body.clone(), &numbers),
        legacy(body, &[("0", 6, &numbers)]),
    ] {
        assert_eq!(values(&file, "whole"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(values(&file, "turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(values(&file, "column"), [1.0, 4.0]);
        assert_eq!(values(&file, "scalar"), [5.0]);
        assert_eq!(values(&file, "repeated"), [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
        assert!(values(&file, "empty").is_empty());
    }
}

#[test]
fn what_lies_beside_weights_is_shown_or_passed_over() {
    let body = dict(&[
        ("epoch", int(200)),
        ("arch", text("resnet50")),
        ("best", b"G\x3f\xe8\x00\x00\x00\x00\x00\x00".to_vec()),
        ("scale", tuple(&[int(1), b"N".to_vec(), b"\x88".to_vec()])),
        ("args", call(name("argparse", "Namespace"), &[])),
        // An object of a user's class, with attributes.
        (
            "config",
            [
                name("mine.config", "Config"),
                b")\x81".to_vec(),
                dict(&[("lr", int(1))]),
                b"b".to_vec(),
            ]
            .concat(),
        ),
        ("dtype", name("torch", "float16")),
        (
            "groups",
            tuple(&[dict(&[(
                "w",
                tensor(storage("FloatStorage", "0", 1), 0, &[1], &[1]),
            )])]),
        ),
    ]);
    let checkpoint = open(&archive(body, &bytes_of(&[1.0]))).unwrap();
    let value = |key: &str| match checkpoint.root.at(key) {
        Some(Entry::Value(value)) => value.clone(),
        other => panic!("{key}: {other:?}"),
    };
    assert_eq!(
        (value("epoch"), value("arch"), value("best")),
        ("200".into(), "resnet50".into(), "0.75".into())
    );
    assert_eq!(value("scale"), "[1, None, True]");
    assert_eq!(value("args"), "an object of argparse.Namespace, passed over");
    assert_eq!(value("config"), "an object of mine.config.Config, passed over");
    assert_eq!(value("dtype"), "torch.float16");
    assert_eq!(checkpoint.tensors()[0].0, "groups.0.w");
}

#[test]
fn a_pickle_that_wants_something_run_is_refused_by_name() {
    let evil = call(name("posix", "system"), &[text("touch /tmp/passer-was-here")]);
    for (body, what) in [
        (dict(&[("x", evil.clone())]), "`posix.system`"),
        // Its result is discarded, so no trace remains.
        ([evil, b"0}".to_vec()].concat(), "`posix.system`"),
        (name("builtins", "eval"), "`builtins.eval`"),
        (name("__builtin__", "exec"), "`__builtin__.exec`"),
        (name("os", "system"), "`os.system`"),
        (name("subprocess", "Popen"), "`subprocess.Popen`"),
        (name("torch.hub", "load"), "`torch.hub.load`"),
        (call(name("torch", "load"), &[text("x")]), "`torch.load`"),
        (
            call(name("torch.storage", "_load_from_bytes"), &[]),
            "`torch.storage._load_from_bytes`",
        ),
        (call(name("mine", "function"), &[]), "`mine.function`"),
        // The same by other opcodes: INST, OBJ, STACK_GLOBAL.
        ([b"(", &text("id")[..], b"imine\nrun\n"].concat(), "`mine.run`"),
        ([b"(", &name("mine", "run")[..], b"o"].concat(), "`mine.run`"),
        (
            [text("posix"), text("system"), b"\x93".to_vec()].concat(),
            "`posix.system`",
        ),
        // A call of a call's result.
        (
            call(call(name("torch", "device"), &[]), &[]),
            "something that it does not name",
        ),
        (
            [name("mine", "Class"), dict(&[]), b"b".to_vec()].concat(),
            "a change of `mine.Class` itself",
        ),
    ] {
        for file in [archive(body.clone(), b""), legacy(body.clone(), &[])] {
            let error = refused(&file);
            let expected = format!("its pickle asks for {what}, which weights do not need: refused");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
    assert!(!std::path::Path::new("/tmp/passer-was-here").exists());
    // The extension registry and out-of-band buffers refer to data outside the file.
    for code in [&b"\x82\x01"[..], b"\x97\x01"] {
        assert!(refused(&archive(code.to_vec(), b"")).contains("opcode"));
    }
}

#[test]
fn sizes_that_lie_are_refused() {
    let eight = bytes_of(&[1.0, 2.0]);
    let s = |elements| storage("FloatStorage", "0", elements);
    let huge = 1i128 << 62;
    for (body, what) in [
        (tensor(s(2), 0, &[3], &[1]), "reaches beyond its storage"),
        (tensor(s(2), 2, &[1], &[1]), "reaches beyond its storage"),
        (tensor(s(2), 0, &[2], &[2]), "reaches beyond its storage"),
        (
            tensor(s(2), 0, &[huge, huge], &[huge, huge]),
            "reaches beyond its storage",
        ),
        (
            tensor(s(2), 0, &[huge, huge], &[1, 1]),
            "reaches beyond its storage",
        ),
        (tensor(s(2), huge * 2, &[1], &[1]), "reaches beyond its storage"),
        (tensor(s(2), 0, &[-1], &[1]), "negative or too large"),
        (tensor(s(2), -1, &[1], &[1]), "negative or too large"),
        (tensor(s(2), 0, &[1 << 70], &[1]), "negative or too large"),
        (tensor(s(2), 0, &[1, 1], &[1]), "cannot be read"),
        (tensor(s(2), 0, &[1; 65], &[1; 65]), "more than 64 dimensions"),
        (tensor(s(3), 0, &[1], &[1]), "holds 8 bytes, its pickle says 12"),
        (tensor(s(huge), 0, &[1], &[1]), "impossibly long"),
        (tensor(s(-2), 0, &[1], &[1]), "negative or too large"),
        (
            tensor(storage("FloatStorage", "1", 2), 0, &[1], &[1]),
            "lacks `a/data/1`",
        ),
        (
            tensor(storage("QInt8Storage", "0", 8), 0, &[1], &[1]),
            "a storage of type torch.QInt8Storage",
        ),
        (
            tensor(storage("FloatStorage", "../../etc/passwd", 2), 0, &[1], &[1]),
            "a storage called \"../../etc/passwd\"",
        ),
        (
            tensor(storage("FloatStorage", "a/b", 2), 0, &[1], &[1]),
            "a storage called \"a/b\"",
        ),
    ] {
        let error = refused(&archive(body, &eight));
        assert!(error.contains(what), "{what}: {error}");
    }
    for (body, storages, what) in [
        (
            tensor(s(2), 0, &[2], &[1]),
            vec![("0", 3, &eight[..])],
            "holds 3 numbers, its pickle says 2",
        ),
        (
            tensor(s(2), 0, &[2], &[1]),
            vec![("0", 2, &eight[..4])],
            "the file ends in storage 0",
        ),
        (tensor(s(2), 0, &[2], &[1]), vec![], "the file holds no storage 0"),
        (
            tensor(s(huge / 4), 0, &[2], &[1]),
            vec![("0", 1 << 60, &eight[..])],
            "the file ends in storage 0",
        ),
        (dict(&[]), vec![("0", 2, &eight[..])], "belongs to no tensor"),
    ] {
        let error = refused(&legacy(body, &storages));
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn a_tensor_that_is_marked_as_negated_is_refused() {
    let marked = |flag: &str, value: &[u8]| {
        let plain = tensor(storage("FloatStorage", "0", 1), 0, &[1], &[1]);
        // Its last argument, where there was none.
        let call = plain.strip_suffix(b"tR").unwrap();
        archive(
            dict(&[("w", [call, &dict(&[(flag, value.to_vec())])[..], b"tR"].concat())]),
            &bytes_of(&[1.5]),
        )
    };
    assert_eq!(values(&marked("neg", b"\x89"), "w"), [1.5]);
    assert_eq!(values(&marked("other", b"\x88"), "w"), [1.5]);
    for flag in ["neg", "conj"] {
        assert!(refused(&marked(flag, b"\x88")).contains("negated or conjugated"));
    }
}

#[test]
fn sparse_tensors_and_the_oldest_pickles_are_called_so() {
    for kind in ["_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"] {
        let body = dict(&[("w", call(name("torch._utils", kind), &[int(0), tuple(&[])]))]);
        let error = open(&archive(body, b"")).unwrap_err();
        assert!(error.to_string().contains("a sparse tensor"), "{error}");
        assert_eq!(error.hint(), Some(Hint::SaveAgain(SaveAs::Dense)));
    }
    let kind = name("torch._utils", "_rebuild_meta_tensor_no_storage");
    let error = refused(&archive(dict(&[("w", call(kind, &[int(0), tuple(&[])]))]), b""));
    assert!(error.contains("the `meta` device"), "{error}");
    // Output of `pickle.dump`.
    let error = refused(b"\x80\x02}.");
    assert!(error.contains("numpy's arrays"), "{error}");
    // Protocol 0 writes a storage's name as a line.
    let error = refused(&archive(b"Pstorage\n".to_vec(), b""));
    assert!(
        error.contains("cannot be read: a pickle of protocol 0"),
        "{error}"
    );
    // In a legacy file the magic number is a line as well; protocol 1 is read.
    let body = dict(&[("w", tensor(storage("FloatStorage", "0", 2), 0, &[2], &[1]))]);
    let new = legacy(body, &[("0", 2, &bytes_of(&[0.5, -1.0]))]);
    let magic = pickle(int(0x1950_a86a_20f9_469c_fc6c));
    let old = [b"L119547037146038801333356L\n.", &new[magic.len()..]].concat();
    assert_eq!(values(&old, "w"), [0.5, -1.0]);
    let oldest = b"L119547037146038801333356L\n.I1001\n.(dp0\n.(dp0\nVw\np1\nP('storage'";
    assert!(refused(oldest).contains("a pickle of protocol 0"));
}

#[test]
fn strides_of_single_elements_may_be_anything() {
    // PyTorch sets none there.
    let any = i128::from(u64::MAX);
    let body = dict(&[(
        "w",
        tensor(storage("FloatStorage", "0", 4), 0, &[2, 1, 2], &[1, any, 2]),
    )]);
    let file = archive(body, &bytes_of(&[0.0, 1.0, 2.0, 3.0]));
    assert_eq!(values(&file, "w"), [0.0, 2.0, 1.0, 3.0]);
}

#[test]
fn python_2s_texts_may_be_bytes() {
    // A number next to the weights, in the old form of `numpy.float64.__reduce__`.
    let scalar = call(
        name("numpy.core.multiarray", "scalar"),
        &[b"N".to_vec(), b"U\x02\xff\xfe".to_vec()],
    );
    let checkpoint = open(&archive(
        dict(&[("best", scalar), ("arch", b"U\x01r".to_vec())]),
        b"",
    ))
    .unwrap();
    assert_eq!(checkpoint.root.at("arch"), Some(&Entry::Value("r".to_owned())));
    assert!(refused(&archive(b"X\x02\0\0\0\xff\xfe".to_vec(), b"")).contains("not UTF-8"));
}

#[test]
fn archives_that_pytorch_did_not_write_are_refused() {
    let sound = pickle(dict(&[]));
    let members: &[(&str, &[u8])] = &[("a/data.pkl", &sound), ("a/data/0", b"0123")];
    assert!(open(&zip(members, |_, _| {})).is_ok());
    let spoilt = |at: usize, bytes: &'static [u8]| {
        refused(&zip(members, move |name, entry| {
            if name == "a/data.pkl" {
                entry[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }))
    };
    // Method deflate; encrypted; a packed size of 4 bytes for 2 GiB; beyond the file; a start without a
    // member.
    assert!(spoilt(10, &[8, 0]).contains("compressed or encrypted"));
    assert!(spoilt(8, &[1, 0]).contains("compressed or encrypted"));
    assert!(spoilt(24, &[0, 0, 0, 0x80]).contains("compressed or encrypted"));
    assert!(spoilt(20, &[0, 0, 0, 0x80, 0, 0, 0, 0x80]).contains("outside the file"));
    assert!(spoilt(42, &[7, 0, 0, 0]).contains("not where its table says"));
    assert!(spoilt(16, &[1, 2, 3, 4]).contains("does not have its checksum"));
    assert!(spoilt(28, &[0xff, 0xff]).contains("ends early"));

    assert!(refused(&zip(&[("a/b.npy", b"x")], |_, _| {})).contains("without `data.pkl`"));
    assert!(
        refused(&zip(&[("a/data.pkl", &sound), ("b/data.pkl", &sound)], |_, _| {}))
            .contains("two `data.pkl`")
    );
    assert!(
        refused(&zip(&[("a/data.pkl", &sound), ("a/data.pkl", &sound)], |_, _| {})).contains("have one name")
    );
    assert!(
        refused(&zip(
            &[("a/data.pkl", &sound), ("a/constants.pkl", &sound)],
            |_, _| {}
        ))
        .contains("TorchScript")
    );
    // PyTorch compresses a program's source; members that are never read may be compressed.
    let packed = |members: &[(&str, &[u8])]| {
        zip(members, |name, entry| {
            if name != "a/data.pkl" {
                entry[10] = 8;
            }
        })
    };
    let script: &[(&str, &[u8])] = &[("a/data.pkl", &sound), ("a/constants.pkl", &sound)];
    assert!(refused(&packed(script)).contains("TorchScript"));
    assert!(open(&packed(&[("a/data.pkl", &sound), ("a/code/x.py", b"x")])).is_ok());
    assert!(
        refused(&packed(&[("a/data.pkl", &sound), ("a/byteorder", b"big")]))
            .contains("compressed or encrypted")
    );
    let big = zip(&[("a/data.pkl", &sound), ("a/byteorder", b"big")], |_, _| {});
    assert!(refused(&big).contains("big-endian"));

    let body = dict(&[("w", tensor(storage("FloatStorage", "0", 1), 0, &[1], &[1]))]);
    let mut file = archive(body, &bytes_of(&[1.5]));
    let at = file
        .windows(4)
        .position(|bytes| bytes == bytes_of(&[1.5]))
        .unwrap();
    file[at] ^= 1;
    let mut source = Cursor::new(&file);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    let error = checkpoint.tensors()[0]
        .1
        .read(&mut source)
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not have its checksum"), "{error}");
}

#[test]
fn other_files_are_named() {
    assert!(refused(b"").ends_with("nor a safetensors file: it is empty"));
    for (start, found, hint) in [
        (
            &b"\n<!DOCTYPE html><title>404</title>"[..],
            "a web page or XML",
            Some(Hint::DownloadAgain),
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS's pointer",
            Some(Hint::FetchFromGitLfs),
        ),
        (b"\x1f\x8b\x08\0", "compressed", Some(Hint::Unpack)),
        (b"\x28\xb5\x2f\xfd\x24", "compressed", Some(Hint::Unpack)),
        (b"GGUF\x03\0\0\0", "a GGUF file", None),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file", None),
        (b"\x93NUMPY\x01\0", "one array of NumPy's", None),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite file", None),
        (b"\x89PNG\r\n\x1a\n", "neither a PyTorch checkpoint", None),
        // `pickle.dump({"a": 1}, file, 0)`, and that of an object.
        (
            b"(dp0\nVa\np1\nI1\ns.",
            "a pickle of protocol 0",
            Some(Hint::SaveAgain(SaveAs::Tensors)),
        ),
        (
            b"ccollections\nOrderedDict\np0\n(tRp1\n.",
            "a pickle of protocol 0",
            Some(Hint::SaveAgain(SaveAs::Tensors)),
        ),
        // The same with protocol 1.
        (
            b"}q\0X\x01\0\0\0aq\x01K\x01s.",
            "holds no dictionary of numpy's arrays",
            Some(Hint::SaveAgain(SaveAs::Tensors)),
        ),
        (
            b"\x08\x07\x12\x07pytorch\x1a\x041.10",
            "an ONNX file",
            Some(Hint::UseToDetect(Detector::Onnx)),
        ),
    ] {
        let error = open(start).unwrap_err();
        assert!(error.to_string().contains(found), "{error}");
        assert_eq!(error.hint(), hint);
    }
    assert!(refused(&pickle(dict(&[]))).contains("PyTorch did not write"));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refused(&tar).contains("before 0.1.10"));
    let big = [
        pickle(int(0x1950_a86a_20f9_469c_fc6c)),
        pickle(int(1001)),
        pickle(dict(&[("little_endian", b"\x89".to_vec())])),
    ];
    assert!(refused(&big.concat()).contains("big-endian"));
    let safetensors = |header: &str, data: usize| {
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &vec![0; data],
        ]
        .concat()
    };
    let one = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(values(&safetensors(one, 8), "w"), [0.0, 0.0]);
    let long = one.replace('w', &"w".repeat(1025));
    assert!(refused(&safetensors(&long, 8)).contains("longer than 1024 bytes"));
    assert!(refused(&safetensors(one, 7)).contains("describes 70 bytes, the file has 69"));
    let lies = one.replace("[2]", "[3]");
    assert!(refused(&safetensors(&lies, 8)).contains("header of its safetensors"));
    let overflow = one.replace("[2]", "[4611686018427387904,4]");
    assert!(refused(&safetensors(&overflow, 8)).contains("header of its safetensors"));
    assert!(refused(&[&100_000u64.to_le_bytes()[..], b"{"].concat()).contains("header of its safetensors"));
}
