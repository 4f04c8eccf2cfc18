//! `scripts/download/pass.sh` against a server on loopback with small stand-ins.

use crate::root;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A file of the server, and its faults.
#[derive(Clone)]
struct File {
    content: Vec<u8>,
    /// Cuts each connection after this many bytes.
    cut: Option<usize>,
    /// Ignores ranges and sends the whole file.
    no_ranges: bool,
    /// Sends other bytes the first time.
    wrong_once: bool,
}

struct Server {
    port: u16,
    sent: Arc<AtomicUsize>,
}

fn serve(files: Vec<(&'static str, File)>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, files) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(files)));
    let counter = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, &files, &counter);
        }
    });
    Server { port, sent }
}

fn answer(mut stream: TcpStream, files: &Mutex<Vec<(&'static str, File)>>, sent: &AtomicUsize) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let mut files = files.lock().unwrap();
    let Some((_, file)) = files
        .iter_mut()
        .find(|(name, _)| head.starts_with(&format!("get /files/{} ", name.to_lowercase())))
    else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let asked = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let from = asked.filter(|_| !file.no_ranges).unwrap_or(0);
    let mut content = file.content.clone();
    if std::mem::take(&mut file.wrong_once) {
        content.fill(b'?');
    }
    let body = &content[from..];
    let status = match asked.is_some() && !file.no_ranges {
        true => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
            content.len() - 1,
            content.len()
        ),
        false => "200 OK".to_string(),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let part = &body[..file.cut.unwrap_or(body.len()).min(body.len())];
    sent.fetch_add(part.len(), Ordering::Relaxed);
    let _ = stream.write_all(part);
}

fn file(seed: u8) -> File {
    File {
        content: (0..50_000u32)
            .map(|at| (at.wrapping_mul(2654435761) >> 24) as u8 ^ seed)
            .collect(),
        cut: None,
        no_ranges: false,
        wrong_once: false,
    }
}

fn sha256(content: &[u8], home: &Path) -> String {
    let path = home.join("to-hash");
    std::fs::write(&path, content).unwrap();
    let output = Command::new("sha256sum").arg(&path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_string()
}

fn fetch(home: &Path, port: u16) -> Output {
    Command::new("bash")
        .arg(root().join("scripts/download/pass.sh"))
        .arg(home.join("pass"))
        .env("PASS_URL", format!("http://127.0.0.1:{port}/files"))
        .env("PASS_MANIFEST", home.join("manifest"))
        .env("PASS_PAUSE", "0")
        .env("no_proxy", "127.0.0.1")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pass_is_fetched_whole_from_a_server_that_cuts_lies_and_knows_no_ranges() {
    let curl = Command::new("curl").arg("--version").output();
    assert!(curl.is_ok(), "install curl: scripts/download/pass.sh needs it");
    let home = tempfile::tempdir().unwrap();
    let mut files = [file(1), file(2), file(3), file(4)];
    files[0].cut = Some(20_000);
    files[1].no_ranges = true;
    files[2].wrong_once = true;
    let names = ["PASS.0.tar", "PASS.1.tar", "PASS.2.tar", "pass_metadata.csv"];
    let manifest: String = names
        .iter()
        .zip(&files)
        .map(|(name, file)| {
            format!(
                "{} {} {name}\n",
                file.content.len(),
                sha256(&file.content, home.path())
            )
        })
        .collect();
    std::fs::write(home.path().join("manifest"), &manifest).unwrap();
    let server = serve(names.into_iter().zip(files.clone()).collect());
    let pass = home.path().join("pass");
    std::fs::create_dir(&pass).unwrap();
    // Leftovers of a kill: a part of a server without ranges, one that is too long, and a file with other
    // content.
    std::fs::write(pass.join("PASS.1.tar.part"), &files[1].content[..10_000]).unwrap();
    std::fs::write(pass.join("pass_metadata.csv.part"), vec![0; 60_000]).unwrap();

    let output = fetch(home.path(), server.port);
    assert!(output.status.success(), "{}", said(&output));
    for (name, file) in names.iter().zip(&files) {
        assert!(std::fs::read(pass.join(name)).unwrap() == file.content, "{name}");
    }
    assert!(
        said(&output).contains("PASS.2.tar: its content is not what it should be"),
        "{}",
        said(&output)
    );
    // With range support, nothing is sent twice.
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent <= 50_000 + 50_000 + 100_000 + 50_000 + 50_000, "{sent}");

    // A second run fetches nothing. After a changed byte, only that file is fetched.
    let output = fetch(home.path(), server.port);
    assert!(
        output.status.success() && server.sent.load(Ordering::Relaxed) == sent,
        "{}",
        said(&output)
    );
    let mut broken = files[3].content.clone();
    broken[7] ^= 1;
    std::fs::write(pass.join("pass_metadata.csv"), broken).unwrap();
    std::fs::remove_file(pass.join(".pass_metadata.csv.checked")).unwrap();
    let output = fetch(home.path(), server.port);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("pass_metadata.csv: not what it should be; fetched anew"));
    assert!(std::fs::read(pass.join("pass_metadata.csv")).unwrap() == files[3].content);

    // More than any disk holds: the download does not start.
    let huge = format!("999999999999999 {} PASS.9.tar\n{manifest}", "0".repeat(64));
    std::fs::write(home.path().join("manifest"), huge).unwrap();
    let output = fetch(home.path(), server.port);
    assert!(
        !output.status.success() && said(&output).contains("nothing was fetched"),
        "{}",
        said(&output)
    );
    assert!(!pass.join("PASS.9.tar.part").exists());
    // A missing file, and a manifest that points outside.
    std::fs::write(
        home.path().join("manifest"),
        format!("5 {} PASS.8.tar\n", "0".repeat(64)),
    )
    .unwrap();
    let output = fetch(home.path(), server.port);
    assert!(
        !output.status.success() && said(&output).contains("PASS.8.tar cannot be fetched"),
        "{}",
        said(&output)
    );
    std::fs::write(
        home.path().join("manifest"),
        format!("5 {} ../x\n", "0".repeat(64)),
    )
    .unwrap();
    let output = fetch(home.path(), server.port);
    assert!(
        !output.status.success() && said(&output).contains("the manifest has the line"),
        "{}",
        said(&output)
    );
}
