//! Every fuzz target on stable Rust: its corpus, all beginnings of it, and bounded random changes
//! from a fixed seed. What `cargo fuzz` found before stays found; new ground is its work.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Law = fn(&[u8]);

/// Most time for one target: the whole stays below 20 s on a slow machine.
const LIMIT: Duration = Duration::from_millis(600);
/// Most changed inputs for one target.
const CHANGED: u32 = 20_000;
/// Longest input, in bytes, as in `fuzz/run`.
const LONGEST: usize = 8_192;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn targets() -> Vec<(String, Law)> {
    let crates: [(&str, &[(&str, Law)]); 8] = [
        ("api", hansa_api::fuzzing::TARGETS),
        ("core", hansa_core::fuzzing::TARGETS),
        ("dns", hansa_dns::fuzzing::TARGETS),
        ("gateway", hansa_gateway::fuzzing::TARGETS),
        ("http3", hansa_http3::fuzzing::TARGETS),
        ("identity", hansa_identity::fuzzing::TARGETS),
        ("proto", hansa_proto::fuzzing::TARGETS),
        ("runtime", hansa_runtime::fuzzing::TARGETS),
    ];
    let all = crates
        .into_iter()
        .flat_map(|(from, targets)| targets.iter().map(move |(name, law)| (format!("{from}_{name}"), *law)));
    all.collect()
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = fuzz().join("corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0x00, 0xff, 0x7f, 0x80][self.below(4)],
            1 => u8::try_from(self.below(48)).unwrap(),
            _ => self.next().to_be_bytes()[0],
        }
    }

    /// A few changes: bytes set, cut out, doubled, put in, or another seed's end.
    fn change(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = seed.to_vec();
        for _ in 0..=self.below(4) {
            let (at, end) = (self.below(out.len() + 1), self.below(out.len() + 1));
            let (at, end) = (at.min(end), at.max(end));
            match self.below(6) {
                0 | 1 if at < out.len() => out[at] = self.byte(),
                2 => drop(out.drain(at..end)),
                3 => {
                    let piece = out[at..end].to_vec();
                    out.splice(at..at, piece);
                }
                4 => out.insert(at, self.byte()),
                _ => {
                    out.truncate(at);
                    out.extend_from_slice(&other[self.below(other.len() + 1)..]);
                }
            }
        }
        out.truncate(LONGEST);
        out
    }
}

fn hold(name: &str, law: Law, input: &[u8]) {
    let held = catch_unwind(|| law(input));
    assert!(held.is_ok(), "{name} broke on these bytes: {}", input.escape_ascii());
}

#[test]
fn every_target_holds_on_its_corpus_and_near_it() {
    for (name, law) in targets() {
        let begun = Instant::now();
        let seeds = corpus(&name);
        assert!(!seeds.is_empty(), "{name} has no corpus: run the example fuzz_seeds");
        for seed in &seeds {
            hold(&name, law, seed);
        }
        let cuts = seeds.iter().flat_map(|seed| (0..seed.len().min(300)).map(|end| &seed[..end]));
        for cut in cuts.take_while(|_| begun.elapsed() < LIMIT / 2) {
            hold(&name, law, cut);
        }
        let mut random = Random(0x68616e7361);
        let mut done = 0;
        while done < CHANGED && begun.elapsed() < LIMIT {
            let (seed, other) = (random.below(seeds.len()), random.below(seeds.len()));
            let input = random.change(&seeds[seed], &seeds[other]);
            hold(&name, law, &input);
            done += 1;
        }
        println!("{name}: {} seeds, {done} changed, {:?}", seeds.len(), begun.elapsed());
    }
}

/// Targets of cargo-fuzz, corpora, and entry points of the crates are the same set.
#[test]
fn no_target_is_forgotten() {
    let known: BTreeSet<String> = targets().into_iter().map(|(name, _)| name).collect();
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz().join(folder)).unwrap();
        let name = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| name(entry.unwrap().path())).collect()
    };
    assert_eq!(names("targets"), known);
    assert_eq!(names("corpus"), known);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in known {
        let line = format!("path = \"targets/{name}.rs\"");
        assert!(manifest.contains(&line), "fuzz/Cargo.toml lacks {line}");
        let text = std::fs::read_to_string(fuzz().join("targets").join(format!("{name}.rs"))).unwrap();
        let (from, target) = name.split_once('_').unwrap();
        for part in [format!("hansa_{from}::fuzzing::TARGETS"), format!("\"{target}\"")] {
            assert!(text.contains(&part), "{name}.rs does not call {part}");
        }
    }
}
