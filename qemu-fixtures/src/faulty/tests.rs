use super::*;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

fn start(folder: &Path, faults: Faults) -> Faulty {
    Faulty::start(folder.to_owned(), faults, (Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

/// A folder with one file of 1000 bytes for each name, all of them different.
fn folder(name: &str, files: &[&str]) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("phaseboot-faulty-{name}-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("stable")).unwrap();
    let content: String = (0..250).map(|number| format!("{number:03} ")).collect();
    for file in files {
        std::fs::write(folder.join("stable").join(file), &content).unwrap();
    }
    folder
}

/// Head and body of the answer, which ends with the connection.
fn get(server: &Faulty, name: &str, header: &str) -> (String, String) {
    get_until(server, name, header, Duration::from_secs(10))
}

/// As much of head and body as comes until nothing has come for so long.
fn get_until(server: &Faulty, name: &str, header: &str, silence: Duration) -> (String, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
    stream.set_read_timeout(Some(silence)).unwrap();
    stream.write_all(format!("GET /stable/{name} HTTP/1.1\r\n{header}\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A reset and a stall are errors, and what came before is there.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

#[test]
fn each_fault_of_a_body_is_what_its_name_says() {
    let names = ["fine", "flipped", "flipped-once", "third", "half", "once", "more", "less"];
    let folder = folder("bodies", &names);
    let server = start(
        &folder,
        &[
            ("flipped-once", Fault::FlipBitOnce),
            ("flipped", Fault::FlipBit),
            ("third", Fault::Truncate),
            ("half", Fault::CloseHalfway),
            ("once", Fault::CutOnce),
            ("more", Fault::AnnouncesMore),
            ("less", Fault::AnnouncesLess),
        ],
    );
    let body = |name: &str| get(&server, name, "").1;
    let fine = body("fine");
    assert_eq!(fine.len(), 1000);
    assert_ne!(body("flipped"), fine);
    assert_ne!(body("flipped"), fine);
    assert_ne!(body("flipped-once"), fine);
    assert_eq!(body("flipped-once"), fine);
    assert_eq!(body("third"), fine[..666]);
    assert_eq!([body("half"), body("half")], [&fine[..500]; 2]);
    assert_eq!([body("once"), body("once")], [&fine[..500], ""]);
    assert_eq!(get(&server, "once", "Range: bytes=500-\r\n").1, fine[500..]);
    assert!(get(&server, "more", "").0.contains("Content-Length: 2000"));
    let (head, less) = get(&server, "less", "");
    assert!(head.contains("Content-Length: 500") && less == fine);
    for path in ["../../etc/passwd", "none", "/etc/passwd"] {
        assert!(get(&server, path, "").0.starts_with("HTTP/1.1 404"), "{path}");
    }
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn connections_break_where_they_should_and_ranges_are_counted() {
    let folder = folder("breaks", &["cuts", "reset", "stall", "short", "whole"]);
    let server = start(
        &folder,
        &[
            ("cuts", Fault::CutAt(&[10, 50])),
            ("reset", Fault::ResetAt(50)),
            ("stall", Fault::StallAt(20, 1)),
            ("short", Fault::ShortRanges(300)),
            ("whole", Fault::IgnoresRanges),
        ],
    );
    let from = |name: &str, first: usize| get(&server, name, &format!("Range: bytes={first}-\r\n")).1.len();
    assert_eq!([from("cuts", 0), from("cuts", 90), from("cuts", 500)], [100, 410, 500]);
    assert_eq!(server.ledger().of("cuts"), (3, 10));
    assert!(from("reset", 0) <= 500);
    assert_eq!(from("reset", 0), 1000);
    assert_eq!(get_until(&server, "stall", "Range: bytes=0-\r\n", Duration::from_secs(1)).1.len(), 200);
    assert_eq!(from("stall", 0), 1000);
    assert_eq!([from("short", 0), from("short", 100), from("short", 900)], [100, 300, 100]);
    assert_eq!([from("whole", 0), from("whole", 500)], [500, 1000]);
    let (head, part) = get(&server, "cuts", "Range: bytes=100-199\r\nIf-Range: \"cuts\"\r\n");
    assert!(head.starts_with("HTTP/1.1 206") && head.contains("bytes 100-199/1000"), "{head}");
    assert_eq!(part.len(), 100);
    assert_eq!(get(&server, "cuts", "Range: bytes=100-199\r\nIf-Range: \"old\"\r\n").1.len(), 1000);
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn some_answers_are_no_file() {
    let folder = folder("heads", &["late", "busy", "circle", "endless", "garbage", "slow"]);
    let server = start(
        &folder,
        &[
            ("late", Fault::MissingAtFirst(1)),
            ("busy", Fault::Unavailable(1)),
            ("circle", Fault::Circles),
            ("endless", Fault::EndlessHead),
            ("garbage", Fault::Garbage),
            ("slow", Fault::Slow(10_000)),
        ],
    );
    let head = |name: &str| get(&server, name, "").0;
    assert!(head("late").starts_with("HTTP/1.1 404") && head("late").starts_with("HTTP/1.1 200"));
    let busy = head("busy");
    assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("Retry-After: 1"), "{busy}");
    assert!(head("busy").starts_with("HTTP/1.1 200"));
    assert!(head("circle").contains("Location: /stable/circle?1"));
    assert!(head("circle?1").contains("Location: /stable/circle?2"));
    assert!(head("garbage").starts_with("\x7fELF"));
    assert_eq!(get(&server, "slow", "").1.len(), 1000);
    let long = get(&server, &format!("../{LONG_FOLDER}/stable/slow"), "");
    assert!(long.0.starts_with("HTTP/1.1 404"));
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}
