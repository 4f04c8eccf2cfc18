//! Pickles that would take disproportionate memory or time for their length.

use super::*;

#[test]
fn a_view_that_repeats_its_numbers_is_not_blown_up() {
    let body = dict(&[(
        "w",
        tensor(storage("FloatStorage", "0", 1), 0, &[1 << 20, 1 << 20], &[0, 0]),
    )]);
    let file = archive(body, &bytes_of(&[1.0]));
    let mut source = Cursor::new(&file);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    let error = checkpoint.tensors()[0]
        .1
        .read(&mut source)
        .unwrap_err()
        .to_string();
    assert!(error.contains("repeats 4 bytes"), "{error}");
}

#[test]
fn pickles_that_grow_or_turn_in_circles_are_refused() {
    let refused = |body: Vec<u8>| refused(&archive(body, b""));
    // A list that holds itself; a dictionary that holds itself via a tuple.
    assert!(refused(b"]q\x00h\x00a".to_vec()).contains("contains itself"));
    assert!(refused([b"}q\x00", &text("x")[..], b"h\x00\x85s"].concat()).contains("contains itself"));
    // Nested a hundred thousand times: neither reading nor dropping it may recurse.
    let deep = [vec![b'N'], vec![0x85; 100_000]].concat();
    assert!(refused(deep).contains("nests deeper"));
    // Ten of ten of ten ...: each line multiplies the output and costs a few bytes.
    let mut laughs = b"}q\x00".to_vec();
    for level in 1..40u8 {
        let last = [b'h', level - 1];
        let twice = [&last[..], &last[..], b"\x86q", &[level]].concat();
        laughs.extend(twice);
    }
    assert!(refused(laughs).contains("more than 262144 entries"));
    // Copies of a long dictionary for a few bytes each.
    let pairs = [
        b"(",
        &tuple(&[int(1), int(2)])[..],
        b"q\x01",
        &b"h\x01".repeat(100_000)[..],
        b"tq\x02",
    ]
    .concat();
    let copy = [&name("collections", "OrderedDict")[..], b"h\x02\x85R0"].concat();
    let copies = [pairs, copy.repeat(100), b"N".to_vec()].concat();
    assert!(refused(copies).contains("more than 2097152 steps"));
    assert!(refused(b"N".repeat(3 << 20)).contains("more than 2097152 steps"));
    // Lengths beyond the file's end are detected before any allocation.
    assert!(refused(b"X\xff\xff\xff\xff".to_vec()).contains("ends early"));
    assert!(refused([&[0x8d][..], &u64::MAX.to_le_bytes()].concat()).contains("ends early"));
    assert!(refused([&[0x8b][..], &u32::MAX.to_le_bytes()].concat()).contains("ends early"));
    for (body, what) in [
        (&b"0"[..], "empty stack"),
        (b"t", "a mark that it never set"),
        (b"h\x07", "never kept"),
        (b"}(NNNu", "a key without a value"),
        (b"NNR", "something that it does not name"),
        (b"\xff", "opcode 0xff"),
        (b"\x80\x09", "protocol 9"),
        (b"Inot a number\n", "a number of the pickle"),
        (b"K\x01K\x02s", "empty stack"),
        (b"]K\x01K\x02s", "no dictionary"),
        (b"}K\x01a", "no list"),
    ] {
        let error = refused(body.to_vec());
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn what_is_kept_once_is_not_shown_a_million_times() {
    // A text of 1 MiB under memo 0, off the stack.
    let long = [&text(&"x".repeat(1 << 20))[..], b"q\x000"].concat();
    let with = |body: &[u8]| archive([&long[..], body].concat(), b"");
    // As values of a list that is searched for dictionaries: each is truncated.
    let list = [&b"]("[..], &b"h\0".repeat(200_000), b"}e"].concat();
    let checkpoint = open(&with(&list)).unwrap();
    assert_eq!(
        checkpoint.root.at("7"),
        Some(&Entry::Value(format!("{}…", "x".repeat(200))))
    );
    // As a key, a class, a class by a two-part name, a storage's key.
    let storage = [
        b"(",
        &text("storage")[..],
        &name("torch", "FloatStorage"),
        b"h\0",
        &text("cpu"),
        b"K\x01tQ",
    ];
    for (body, what) in [
        (&b"}h\0Ns"[..], "longer than 1024 bytes"),
        (b"h\0h\0\x93", "longer than 1024 bytes"),
        (b"h\0h\0\x93)\x81", "longer than 1024 bytes"),
        (&storage.concat(), "xxx…\", expected a number"),
    ] {
        let error = refused(&with(body));
        assert!(error.contains(what) && error.len() < 500, "{what}: {error}");
    }
    // Keys that are short alone: 63 dictionaries deep, and a hundred thousand times three deep.
    let keyed = |count: usize| [&text(&"k".repeat(count))[..], b"q\x000"].concat();
    let deep = [&keyed(100)[..], &b"}h\0".repeat(60), b"N", &b"s".repeat(60)].concat();
    assert!(refused(&archive(deep, b"")).contains("longer than 1024 bytes"));
    let wide = [&keyed(500)[..], b"](", &b"}h\0Ns".repeat(200_000), b"e"].concat();
    assert!(refused(&archive(wide, b"")).contains("names of its entries are longer than 64 MiB"));
}

#[test]
fn long_lists_that_are_shared_are_not_looked_through_a_million_times() {
    let refused = |body: &[&[u8]]| refused(&archive(body.concat(), b""));
    // A list of plain values, and an object's attributes, visited 200,000 times in a list next to a
    // dictionary.
    let list = [b"](", &b"N".repeat(1000)[..], b"eq\x000"].concat();
    let object = [
        &name("mine", "C")[..],
        b")\x81}(",
        &b"NN".repeat(1000),
        b"ubq\x000",
    ];
    for shared in [list, object.concat()] {
        let error = refused(&[&shared, b"](", &b"h\0".repeat(200_000), b"}e"]);
        assert!(error.contains("more than 67108864 items"), "{error}");
    }
    // Arguments of a call: a dictionary uses none beyond the second.
    let (long, call) = (b"N".repeat(1_000_000), b"h\x01h\0R0");
    let function = [&name("collections", "OrderedDict")[..], b"q\x010"].concat();
    let calls = [
        b"(",
        &long[..],
        b"tq\x000",
        &function,
        &call.repeat(200_000),
        b"N",
    ];
    assert!(open(&archive(calls.concat(), b"")).is_ok());
}

#[test]
fn flags_that_all_tensors_share_are_few() {
    let flags = |count: usize| {
        let flags = [b"}(", &b"NN".repeat(count)[..], b"uq\x000"].concat();
        let number = storage("FloatStorage", "0", 1);
        let arguments = [
            number,
            int(0),
            tuple(&[int(1)]),
            tuple(&[int(1)]),
            b"\x89Nh\0".to_vec(),
        ];
        let tensor = call(name("torch._utils", "_rebuild_tensor_v2"), &arguments);
        open(&archive([flags, tensor].concat(), &bytes_of(&[1.0])))
    };
    assert!(flags(64).is_ok());
    let error = flags(65).unwrap_err().to_string();
    assert!(
        error.ends_with("65 flags of a tensor, expected at most 64"),
        "{error}"
    );
}

#[test]
fn headers_of_safetensors_are_looked_through_before_they_are_read() {
    let file = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let shaped = |shape: &str| {
        let header = format!(
            r#"{{"__metadata__":{{"a\\\"[,":"{}"}},"w":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,0]}}}}"#,
            "[,:".repeat(1000)
        );
        open(&file(&header))
    };
    let zeros = |count: usize| vec!["0"; count].join(",");
    let checkpoint = shaped(&zeros(64)).unwrap();
    assert_eq!(checkpoint.tensors()[0].1.shape.len(), 64);
    assert_eq!(checkpoint.metadata.len(), 1);
    for many in [zeros(65), format!("[0],{}", zeros(65)), "[".repeat(65)] {
        let error = shaped(&many).unwrap_err().to_string();
        assert!(
            error.ends_with("describes a tensor of more than 64 dimensions"),
            "{error}"
        );
    }
    let keys = format!(r#"{{"w":{{{}}}}}"#, vec![r#""":0"#; 1_400_000].join(","));
    assert!(refused(&file(&keys)).contains("more than 262144 entries"));
}
