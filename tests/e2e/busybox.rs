//! An image that runs must never need a network to be made: it is Debian's static busybox in two layers.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

use bytes::Bytes;

use crate::support::content::Content;
use crate::support::{Image, Index};
use crate::tar::Tar;

/// Big enough that a layer is many reads and writes.
const BALLAST: usize = 6 << 20;

/// Busybox for this architecture. `/etc/mark` holds `mark`, so that two images can be told apart from inside.
pub fn image(architecture: &str, mark: &str) -> Image {
    static PROGRAM: LazyLock<(Bytes, Bytes)> = LazyLock::new(|| {
        let busybox = std::fs::read("/bin/busybox")
            .expect("/bin/busybox cannot be read: Debian's package busybox-static has it");
        let mut tar = Tar::default()
            .directory("bin/")
            .file("bin/busybox", 0o755, &busybox);
        for name in ["sh", "echo", "cat"] {
            tar = tar.link(&format!("bin/{name}"), "busybox");
        }
        compressed(tar)
    });
    let ballast = Content::generated(mark.len() as u64, BALLAST as u64).read(0, BALLAST);
    let etc = Tar::default()
        .directory("etc/")
        .file("etc/mark", 0o644, mark.as_bytes())
        .file("etc/ballast", 0o644, &ballast);
    Image::of_gzip_layers(
        architecture,
        vec![PROGRAM.clone(), compressed(etc)],
        &["/bin/sh"],
    )
}

/// One image that runs here (`/etc/mark` says `native`), and one for another architecture.
pub fn index() -> Index {
    let (native, foreign) = match std::env::consts::ARCH {
        "aarch64" => ("arm64", "amd64"),
        _ => ("amd64", "arm64"),
    };
    Index::of(&[image(foreign, "foreign"), image(native, "native")])
}

/// The architecture of this machine as images name it.
pub fn native() -> &'static str {
    if std::env::consts::ARCH == "aarch64" {
        "arm64"
    } else {
        "amd64"
    }
}

/// A tar file and the same through gzip.
fn compressed(tar: Tar) -> (Bytes, Bytes) {
    let tar = tar.finish();
    let mut gzip = Command::new("gzip")
        .args(["-n", "-1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip cannot be run");
    let mut input = gzip.stdin.take().unwrap();
    let feed = tar.clone();
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut input, &feed));
    let output = gzip.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    (tar, output.stdout.into())
}
