//! What goes wrong where the mirror runs: it is killed, its disk is full, its files are damaged.
//!
//! Damage is of kinds that the mirror can notice before it serves: a length that is not the committed one, what is
//! gone, bits flipped in a manifest (hashed whenever it is read from disk), and, while the mirror is down, a beginning
//! of a blob that is shorter than it was. Bits flipped in a stored blob are noticed
//! by a check of the whole store alone: they are flipped while the mirror is down, and `verify` runs before it is up.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Run;
use crate::dice::Dice;
use crate::support::disk::files;
use crate::tally::one;

const MIB: u64 = 1024 * 1024;

/// Blows until the run is over.
pub fn blow(run: &Run) {
    let mut dice = run.dice(2);
    run.sleep(dice.millis(500, 1500));
    // Once at least, however short the run.
    kill(run, &mut dice);
    while !run.is_over() {
        run.sleep(dice.millis(50, 500));
        match dice.below(100) {
            0..12 => kill(run, &mut dice),
            12..26 if run.ground.can_be_full() => fill_up(run, &mut dice),
            26..32 => rot(run, &mut dice),
            32..80 => damage(run, &mut dice),
            80..84 => delete_all(run),
            _ => {}
        }
    }
    run.ground.clear();
}

/// `kill -9`, and after a moment the mirror is there again.
fn kill(run: &Run, dice: &mut Dice) {
    let mut mirror = run.mirror.lock().unwrap();
    run.tally.read_log(&mirror.output());
    mirror.kill9();
    if dice.percent(50) {
        spoil_beginnings(run, dice);
    }
    std::thread::sleep(dice.millis(0, 400));
    mirror.restart();
    one(&run.tally.kills);
}

/// Bits of stored blobs flip while the mirror is down, and `verify --repair` finds them before it is up again: clients
/// could not be kept from them otherwise, since they are not hashed when they are opened.
fn rot(run: &Run, dice: &mut Dice) {
    let mut mirror = run.mirror.lock().unwrap();
    run.tally.read_log(&mirror.output());
    mirror.kill9();
    let mut rotten = Vec::new();
    for path in files(&run.ground.store().join("blobs")) {
        let length = path.metadata().map_or(0, |file| file.len());
        if length > 0 && rotten.len() < 3 && dice.percent(20) {
            flip(&path, dice.below(length));
            one(&run.tally.damaged);
            rotten.push(path);
        }
    }
    let ran = mirror.command_without_admin(&["verify", "--repair"]);
    for path in rotten.iter().filter(|path| path.exists()) {
        run.tally
            .wrong(format!("verify left {} as it is: {ran:?}", path.display()));
    }
    mirror.restart();
    one(&run.tally.kills);
}

/// A part of what arrived of a blob before the kill is lost. No bits are flipped in it: a part of a blob may be read
/// out of it before the whole is verified.
fn spoil_beginnings(run: &Run, dice: &mut Dice) {
    let store = run.ground.store();
    let mut beginnings = files(&store.join("partial"));
    beginnings.extend(files(&store.join("ingest")));
    for path in &beginnings {
        match dice.below(4) {
            0 | 1 => shorten(path, dice),
            2 => drop(std::fs::remove_file(path)),
            _ => continue,
        }
        one(&run.tally.damaged);
    }
}

/// The disk is full for a while; at times the mirror is killed meanwhile, and starts on the full disk.
fn fill_up(run: &Run, dice: &mut Dice) {
    run.ground.fill(dice.below(MIB));
    one(&run.tally.full);
    run.sleep(dice.millis(300, 2000));
    if dice.percent(25) {
        kill(run, dice);
        run.sleep(dice.millis(100, 500));
    }
    run.ground.clear();
}

fn damage(run: &Run, dice: &mut Dice) {
    let store = run.ground.store();
    let blobs = files(&store.join("blobs"));
    let records = files(&store.join("repositories"));
    let (Some(blob), Some(record)) = (any_of(&blobs, dice), any_of(&records, dice)) else {
        return;
    };
    match dice.below(8) {
        0 | 1 => shorten(blob, dice),
        2 => drop(std::fs::remove_file(blob)),
        3 => drop(std::fs::remove_dir_all(blob.parent().unwrap())),
        4 => shorten(record, dice),
        5 => drop(std::fs::remove_file(record)),
        6 => flip_manifest(&records, dice),
        // For root it changes nothing.
        _ => forbid(run, blob.parent().unwrap(), dice),
    }
    one(&run.tally.damaged);
}

fn any_of<'a>(all: &'a [PathBuf], dice: &mut Dice) -> Option<&'a Path> {
    (!all.is_empty()).then(|| dice.pick(all).as_path())
}

/// The mirror may have evicted it by now: none of this fails.
fn shorten(path: &Path, dice: &mut Dice) {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let length = file.metadata().map_or(0, |file| file.len());
        let _ = file.set_len(dice.below(length.max(1)));
    }
}

/// One bit in the bytes of a manifest; what lies before them is the mirror's own line.
fn flip_manifest(records: &[PathBuf], dice: &mut Dice) {
    let manifests: Vec<_> = records
        .iter()
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("manifest-"))
        })
        .cloned()
        .collect();
    let Some(path) = any_of(&manifests, dice) else {
        return;
    };
    let Ok(bytes) = std::fs::read(path) else {
        return;
    };
    let Some(line) = bytes.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let content = bytes.len() - line - 1;
    if content == 0 {
        return;
    }
    flip(path, (line + 1 + dice.index(content)) as u64);
}

/// One bit of a file.
fn flip(path: &Path, at: u64) {
    let mut byte = [0];
    if let Ok(file) = OpenOptions::new().read(true).write(true).open(path)
        && file.read_exact_at(&mut byte, at).is_ok()
    {
        let _ = file.write_all_at(&[byte[0] ^ 0x20], at);
    }
}

fn forbid(run: &Run, directory: &Path, dice: &mut Dice) {
    let allow = |mode| {
        let _ = std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode));
    };
    let before =
        std::fs::metadata(directory).map_or(0o755, |metadata| metadata.permissions().mode());
    allow(0);
    run.sleep(dice.millis(100, 500));
    allow(before);
}

/// As an operator does who wants an empty cache and does not stop the mirror for it.
fn delete_all(run: &Run) {
    let _ = std::fs::remove_dir_all(run.ground.store());
    one(&run.tally.damaged);
}
