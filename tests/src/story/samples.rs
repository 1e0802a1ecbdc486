//! Media files to submit: the repository's samples in their order, or whatever is in a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{folder::repository, random::Random};

/// The most files of a folder.
const FILES_MAX: usize = 2_000;

/// The three kinds of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Speech.
    Voice,
    /// Pictures.
    Photo,
    /// Clips.
    Video,
}

impl Kind {
    /// All, in the order of their tasks.
    pub const ALL: [Self; 3] = [Self::Voice, Self::Photo, Self::Video];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Voice => "voice",
            Self::Photo => "photo",
            Self::Video => "video",
        }
    }
}

/// What the gate has to answer, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Accepted.
    Accepted,
    /// Rejected, for this reason.
    Rejected(String),
    /// A file of somebody's own: nobody said.
    Unknown,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where it is.
    pub path: PathBuf,
    /// Its name inside the folder: the source record id.
    pub name: String,
    /// For which task.
    pub kind: Kind,
    /// What it claims to be, by its extension.
    pub mime: &'static str,
    /// What the gate has to answer.
    pub expected: Expected,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    file: String,
    task: Kind,
    expect: String,
    reason: Option<String>,
}

/// The samples of this repository, in the order of `expected.json`.
pub fn repository_samples() -> Result<Vec<Sample>> {
    let folder = repository().join("samples");
    let text = fs::read_to_string(folder.join("expected.json")).context("failed to read samples/expected.json")?;
    let lines: Vec<Line> = serde_json::from_str(&text).context("samples/expected.json is not as expected")?;
    lines.into_iter().map(|line| repository_sample(&folder, line)).collect()
}

fn repository_sample(folder: &Path, line: Line) -> Result<Sample> {
    let expected = match (line.expect.as_str(), line.reason) {
        ("accepted", None) => Expected::Accepted,
        ("rejected", Some(reason)) => Expected::Rejected(reason),
        other => bail!("samples/expected.json, {}: {other:?} is neither accepted nor rejected", line.file),
    };
    let path = folder.join(&line.file);
    let (_, mime) = by_extension(&path).with_context(|| format!("{}: not a type of the demo", line.file))?;
    Ok(Sample { path, name: line.file, kind: line.task, mime, expected })
}

/// Media files of any folder, by name; the task follows from the extension.
pub fn folder_samples(folder: &Path) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    collect(folder, folder, &mut samples)?;
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    if samples.is_empty() {
        bail!("{}: expected media files (wav, flac, mp3, ogg, m4a, jpg, png, webp, gif, mp4, mov)", folder.display());
    }
    Ok(samples)
}

fn collect(top: &Path, folder: &Path, samples: &mut Vec<Sample>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read the folder {}", folder.display()))?.path();
        if path.is_dir() {
            collect(top, &path, samples)?;
        } else if let Some((kind, mime)) = by_extension(&path) {
            if samples.len() == FILES_MAX {
                bail!("{}: expected at most {FILES_MAX} media files", top.display());
            }
            let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
            samples.push(Sample { path, name, kind, mime, expected: Expected::Unknown });
        }
    }
    Ok(())
}

fn by_extension(path: &Path) -> Option<(Kind, &'static str)> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "wav" => (Kind::Voice, "audio/wav"),
        "flac" => (Kind::Voice, "audio/flac"),
        "mp3" => (Kind::Voice, "audio/mpeg"),
        "ogg" => (Kind::Voice, "audio/ogg"),
        "m4a" => (Kind::Voice, "audio/mp4"),
        "jpg" | "jpeg" => (Kind::Photo, "image/jpeg"),
        "png" => (Kind::Photo, "image/png"),
        "webp" => (Kind::Photo, "image/webp"),
        "gif" => (Kind::Photo, "image/gif"),
        "mp4" => (Kind::Video, "video/mp4"),
        "mov" => (Kind::Video, "video/quicktime"),
        _ => return None,
    })
}

/// One second of noise, mono, 16 kHz, 16 bits: a WAV file that no other number gives.
pub fn noise(number: u32) -> Vec<u8> {
    const SAMPLE_RATE_HZ: u32 = 16_000;
    let bytes = 2 * SAMPLE_RATE_HZ;
    let mut file = Vec::with_capacity(44 + bytes as usize);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + bytes).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend_from_slice(&SAMPLE_RATE_HZ.to_le_bytes());
    file.extend_from_slice(&bytes.to_le_bytes());
    file.extend_from_slice(b"\x02\0\x10\0data");
    file.extend_from_slice(&bytes.to_le_bytes());
    // it compresses as little as speech does
    let mut random = Random::new(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..SAMPLE_RATE_HZ {
        file.extend_from_slice(&random.sample().to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_s_samples_are_at_least_thirty_and_three_are_rejected_for_different_reasons() {
        let samples = repository_samples().unwrap();
        assert!(samples.len() >= 30 && samples.iter().all(|sample| sample.path.is_file()));
        let reasons: std::collections::BTreeSet<_> = samples
            .iter()
            .filter_map(|sample| match &sample.expected {
                Expected::Rejected(reason) => Some(reason.clone()),
                _ => None,
            })
            .collect();
        assert!(reasons.len() >= 3, "{reasons:?}");
    }

    #[test]
    fn any_folder_s_files_find_their_task() {
        let samples = folder_samples(&repository().join("samples")).unwrap();
        assert_eq!(samples.len(), repository_samples().unwrap().len());
        assert!(folder_samples(&repository().join("scripts")).is_err());
    }
}
