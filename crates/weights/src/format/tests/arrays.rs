//! Pickles of numpy's arrays, as Python 2 and 3 write them in protocols 2 to 5, and hostile ones.

use super::*;

/// `numpy.dtype(name, False, True)` with the state of this order of bytes.
fn dtype(type_name: &str, order: &str) -> Vec<u8> {
    let made = call(
        name("numpy", "dtype"),
        &[text(type_name), b"\x89".to_vec(), b"\x88".to_vec()],
    );
    let none = || b"N".to_vec();
    let state = [
        int(3),
        text(order),
        none(),
        none(),
        none(),
        int(-1),
        int(-1),
        int(0),
    ];
    [made, tuple(&state), b"b".to_vec()].concat()
}

fn empty() -> Vec<u8> {
    let arguments = [
        name("numpy", "ndarray"),
        tuple(&[int(0)]),
        [&b"C\x01"[..], b"b"].concat(),
    ];
    call(name("numpy.core.multiarray", "_reconstruct"), &arguments)
}

/// An array with the state that numpy gives it.
fn array(shape: &[i128], dtype: Vec<u8>, is_fortran: bool, data: Vec<u8>) -> Vec<u8> {
    let shape = shape.iter().map(|size| int(*size)).collect::<Vec<_>>();
    let order = vec![if is_fortran { 0x88 } else { 0x89 }];
    let state = tuple(&[int(1), tuple(&shape), dtype, order, data]);
    [empty(), state, b"b".to_vec()].concat()
}

/// BINBYTES of Python 3.
fn binary(bytes: &[u8]) -> Vec<u8> {
    [b"B", &(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

/// BINSTRING of Python 2.
fn string(bytes: &[u8]) -> Vec<u8> {
    [b"T", &(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn file(arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
    pickle(dict(&[("model", dict(arrays)), ("__author__", text("numpy"))]))
}

fn read(file: &[u8], name: &str) -> Vec<f64> {
    let mut source = Cursor::new(file);
    let checkpoint = Checkpoint::open(&mut source).unwrap();
    assert_eq!(checkpoint.format, Format::Numpy);
    let Some(Entry::Tensor(tensor)) = checkpoint.root.at(&format!("model/{name}")) else {
        panic!("{name}: {:?}", checkpoint.root);
    };
    tensor.read(&mut source).unwrap().iter::<f64>().collect()
}

#[test]
fn arrays_of_every_protocol_are_read() {
    let numbers = [0.5f32, -1.0, 2.0, 3.0, -4.0, 5.0];
    let bytes = bytes_of(&numbers);
    let latin: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    // Python 3's bytes in protocol 2.
    let as_text = call(name("_codecs", "encode"), &[text(&latin), text("latin1")]);
    let long: Vec<f32> = (0..1000).map(|at| at as f32 / 8.0).collect();
    let f4 = || dtype("f4", "<");
    // `_frombuffer(buffer, dtype, shape, order)` of protocol 5, with a bytearray.
    let buffer = [&[0x96][..], &24u64.to_le_bytes(), &bytes].concat();
    let shape = tuple(&[int(2), int(3)]);
    let of_buffer = call(
        name("numpy._core.numeric", "_frombuffer"),
        &[buffer, f4(), shape, text("C")],
    );
    let file = file(&[
        ("binary", array(&[2, 3], f4(), false, binary(&bytes))),
        ("fortran", array(&[2, 3], f4(), true, binary(&bytes))),
        ("text", array(&[6], f4(), false, as_text)),
        ("python2", array(&[1000], f4(), false, string(&bytes_of(&long)))),
        ("short", array(&[6], f4(), false, string(&bytes))),
        // Zeros are UTF-8.
        (
            "zeros",
            array(&[2], f4(), false, b"U\x08\0\0\0\0\0\0\0\0".to_vec()),
        ),
        ("buffer", of_buffer),
        (
            "scalar",
            array(&[], dtype("i8", "<"), false, binary(&7i64.to_le_bytes())),
        ),
        ("objects", array(&[1], dtype("O8", "|"), false, b"]".to_vec())),
    ]);
    let expected = numbers.map(f64::from);
    for name in ["binary", "text", "short", "buffer"] {
        assert_eq!(read(&file, name), expected, "{name}");
    }
    assert_eq!(read(&file, "fortran"), [0.5, 2.0, -4.0, -1.0, 3.0, 5.0]);
    assert_eq!(
        read(&file, "python2"),
        long.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
    );
    assert_eq!(read(&file, "zeros"), [0.0, 0.0]);
    let checkpoint = open(&file).unwrap();
    assert_eq!(
        checkpoint.root.at("model/objects"),
        Some(&Entry::Value("an array of no numbers, passed over".to_owned()))
    );
    let scalar = checkpoint
        .tensors()
        .into_iter()
        .find(|(name, _)| name == "model.scalar");
    assert_eq!(scalar.map(|(_, tensor)| tensor.shape.clone()), Some(vec![]));
    // Beside tensors of PyTorch's, where a pickle is not the whole file, arrays are passed over.
    let inside = archive(dict(&[("a", array(&[6], f4(), false, binary(&bytes)))]), b"");
    assert_eq!(
        open(&inside).unwrap().root.at("a"),
        Some(&Entry::Value("an array of numpy's, passed over".to_owned()))
    );
}

#[test]
fn arrays_that_lie_are_refused() {
    let refused = |array: Vec<u8>| refused(&file(&[("w", array)]));
    let f4 = || dtype("f4", "<");
    for (array, what) in [
        (
            array(&[2, 3], f4(), false, binary(&[0; 20])),
            "has 20 bytes, expected 24",
        ),
        (
            array(&[i128::from(u64::MAX), 9], f4(), false, binary(&[])),
            "impossibly long",
        ),
        (
            array(&[1 << 40, 1 << 40], f4(), false, binary(&[])),
            "impossibly long",
        ),
        (
            array(&[1], dtype("f4", ">"), false, binary(&[0; 4])),
            "big-endian",
        ),
        (
            array(&[1; 65], f4(), false, binary(&[0; 4])),
            "more than 64 dimensions",
        ),
        (array(&[-1], f4(), false, binary(&[])), "cannot be read"),
        (array(&[1], int(4), false, binary(&[0; 4])), "a type of an array"),
        (array(&[1], f4(), false, int(4)), "cannot be read"),
        (empty(), "has no contents"),
        (
            [empty(), tuple(&[int(1)]), b"b".to_vec()].concat(),
            "cannot be read",
        ),
    ] {
        let error = refused(array);
        assert!(error.contains(what), "{what}: {error}");
    }
    // A length beyond the file's end; something behind the pickle; code.
    let cut = [b"B", &u32::MAX.to_le_bytes()[..]].concat();
    assert!(refused(array(&[1], f4(), false, cut)).contains("ends early"));
    let sound = file(&[("w", array(&[1], f4(), false, binary(&[0; 4])))]);
    assert!(super::refused(&[&sound[..], b"more"].concat()).contains("4 bytes follow its pickle"));
    let code = call(name("os", "system"), &[text("id")]);
    assert!(refused(code).contains("`os.system`"));
    let code = call(name("numpy.core.multiarray", "fromfile"), &[text("x")]);
    assert!(refused(code).contains("`numpy.core.multiarray.fromfile`"));
    // A text that stands for one array many times takes memory each time.
    let one = array(
        &[256],
        f4(),
        false,
        [b"T", &1024u32.to_le_bytes()[..], &[0; 1024]].concat(),
    );
    let many = [&one[..], b"q\x000", b"](", &b"h\0".repeat(100_000), b"e"].concat();
    assert!(super::refused(&file(&[("w", many)])).contains("more than 64 MiB of text"));
    // An array of much text.
    let long = call(
        name("_codecs", "encode"),
        &[text(&"a".repeat(1 << 17)), text("latin1")],
    );
    let error = refused(array(&[1 << 15], f4(), false, long));
    assert!(
        error.contains("stored as text (protocol 2 of Python 3's pickle)"),
        "{error}"
    );
}
