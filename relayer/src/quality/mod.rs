//! The quality gate: does a submission decode as what it claims to be, and is it within bounds?
//!
//! ```text
//!  bytes, claimed MIME ─► empty? ─► sniff ─► decode to the end ─► bounds ─► (the attestor: exact duplicate?) ─► verdict
//! ```

mod audio;
mod image;
mod sniff;
mod video;

use serde::{Deserialize, Serialize};
use tidemark::{consent::data_type, verdict::Outcome};

use self::sniff::Form;

/// Name and version of these checks, as it stands in every verdict.
pub const GATE: &str = "tidemark-gate-1";

/// The longest MIME type with its parameters.
const MIME_BYTES_MAX: usize = 255;

/// What a submission is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Speech and other sound.
    Voice,
    /// Still pictures.
    Photo,
    /// Moving pictures.
    Video,
}

impl Media {
    /// Bit of the consent's data types.
    pub fn data_type(self) -> u32 {
        match self {
            Self::Voice => data_type::VOICE,
            Self::Photo => data_type::PHOTO,
            Self::Video => data_type::VIDEO,
        }
    }

    /// `file.media_category` of trace-v1.0.
    pub fn category(self) -> &'static str {
        match self {
            Self::Voice => "audio",
            Self::Photo => "image",
            Self::Video => "video",
        }
    }
}

/// A claimed MIME type that the gate knows how to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Voice, photo or video.
    pub media: Media,
    form: Form,
}

impl Claim {
    /// Reads a MIME type; parameters after `;` and case do not matter. `None` for a type the gate can't check, and for
    /// text that no database or address could hold.
    pub fn parse(mime: &str) -> Option<Self> {
        if mime.len() > MIME_BYTES_MAX || mime.chars().any(char::is_control) {
            return None;
        }
        let essence = mime.split(';').next().unwrap_or(mime).trim().to_ascii_lowercase();
        let (media, form) = match essence.as_str() {
            "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => (Media::Voice, Form::Wav),
            "audio/flac" | "audio/x-flac" => (Media::Voice, Form::Flac),
            "audio/mpeg" | "audio/mp3" => (Media::Voice, Form::Mp3),
            "audio/ogg" | "application/ogg" => (Media::Voice, Form::Ogg),
            "audio/mp4" | "audio/m4a" | "audio/x-m4a" => (Media::Voice, Form::IsoMedia),
            "image/jpeg" | "image/jpg" => (Media::Photo, Form::Jpeg),
            "image/png" => (Media::Photo, Form::Png),
            "image/webp" => (Media::Photo, Form::Webp),
            "image/gif" => (Media::Photo, Form::Gif),
            "video/mp4" | "video/quicktime" => (Media::Video, Form::IsoMedia),
            _ => return None,
        };
        Some(Self { media, form })
    }
}

/// What was measured while decoding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of sound and moving pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// Pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Of sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate_hz: Option<u32>,
    /// Pictures decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u32>,
}

/// What the gate says, before anybody looks for duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Accepted, or the first reason not to.
    pub outcome: Outcome,
    /// One sentence with what was expected and what came.
    pub detail: String,
    /// What was measured.
    pub facts: Facts,
}

impl Judgement {
    pub(crate) fn no(outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { outcome, detail: detail.into(), facts: Facts::default() }
    }

    /// Whether a file of this kind can get it: what is accepted is within bounds, and duplicates are not told by decoding.
    pub(crate) fn could_be_of(&self, claim: Claim) -> bool {
        match self.outcome {
            Outcome::Accepted => bounds(claim.media, &self.facts).is_none(),
            Outcome::Duplicate => false,
            _ => true,
        }
    }
}

/// Why bytes do not decode, or are refused while they do.
#[derive(Debug)]
struct Refusal {
    outcome: Outcome,
    detail: String,
}

impl Refusal {
    fn undecodable(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Undecodable, detail: detail.into() }
    }
}

/// Judges a submission. CPU-bound and bounded; the attestor's sandbox does it where a decoder can do no harm.
pub fn judge(bytes: &[u8], claim: Claim) -> Judgement {
    if bytes.is_empty() {
        return Judgement::no(Outcome::Empty, "expected a file, got 0 bytes");
    }
    match sniff::sniff(bytes) {
        None => {
            return Judgement::no(
                Outcome::Undecodable,
                format!("expected {}, got bytes of no known type", claim.form.name()),
            );
        }
        Some(found) if found != claim.form => {
            let detail = format!("expected {}, got {}", claim.form.name(), found.name());
            return Judgement::no(Outcome::TypeMismatch, detail);
        }
        Some(_) => {}
    }
    // decoders are other people's code on a stranger's bytes: a panic in one is a file that can't be decoded
    let decoded = std::panic::catch_unwind(|| match claim.media {
        Media::Voice => audio::decode(bytes, claim.form),
        Media::Photo => image::decode(bytes, claim.form),
        Media::Video => video::decode(bytes),
    });
    let decoded = decoded.unwrap_or_else(|_| {
        Err(Refusal::undecodable("expected a well-formed file, got one that the decoder gives up on"))
    });
    match decoded {
        Err(refusal) => Judgement::no(refusal.outcome, refusal.detail),
        Ok(facts) => match bounds(claim.media, &facts) {
            Some((outcome, detail)) => Judgement { outcome, detail, facts },
            None => {
                Judgement { outcome: Outcome::Accepted, detail: "decoded to the end and within bounds".into(), facts }
            }
        },
    }
}

const VOICE_MS: (u64, u64) = (500, 60_000);
const VOICE_RATE_HZ_MIN: u32 = 16_000;
const VIDEO_MS: (u64, u64) = (1_000, 60_000);
const SIDE_PX_MIN: u32 = 64;
const PHOTO_SIDE_PX_MAX: u32 = 8_192;

fn bounds(media: Media, facts: &Facts) -> Option<(Outcome, String)> {
    let (width, height) = (facts.width.unwrap_or(0), facts.height.unwrap_or(0));
    let too_small = (width < SIDE_PX_MIN || height < SIDE_PX_MIN)
        .then(|| (Outcome::TooSmall, format!("expected at least {SIDE_PX_MIN} pixels a side, got {width}x{height}")));
    match media {
        Media::Voice => duration(VOICE_MS, facts).or_else(|| {
            let rate = facts.sample_rate_hz.unwrap_or(0);
            (rate < VOICE_RATE_HZ_MIN)
                .then(|| (Outcome::TooSmall, format!("expected at least {VOICE_RATE_HZ_MIN} Hz, got {rate} Hz")))
        }),
        Media::Photo => too_small.or_else(|| too_large(width, height)),
        Media::Video => duration(VIDEO_MS, facts).or(too_small),
    }
}

fn too_large(width: u32, height: u32) -> Option<(Outcome, String)> {
    (width > PHOTO_SIDE_PX_MAX || height > PHOTO_SIDE_PX_MAX).then(|| {
        (Outcome::TooLarge, format!("expected at most {PHOTO_SIDE_PX_MAX} pixels a side, got {width}x{height}"))
    })
}

fn duration((least, greatest): (u64, u64), facts: &Facts) -> Option<(Outcome, String)> {
    let actual = facts.duration_ms.unwrap_or(0);
    if actual < least {
        return Some((Outcome::TooShort, format!("expected at least {least} ms, got {actual} ms")));
    }
    (actual > greatest).then(|| (Outcome::TooLong, format!("expected at most {greatest} ms, got {actual} ms")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mime_of(file: &str) -> &'static str {
        match file.rsplit('.').next().unwrap() {
            "wav" => "audio/wav",
            "flac" => "audio/flac",
            "mp3" => "audio/mpeg",
            "ogg" => "audio/ogg",
            "m4a" => "audio/mp4",
            "jpg" => "image/jpeg",
            "png" => "image/png",
            "webp" => "image/webp",
            "gif" => "image/gif",
            "mp4" => "video/mp4",
            "mov" => "video/quicktime",
            other => panic!("no MIME type for {other}"),
        }
    }

    fn samples() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples")
    }

    #[test]
    fn every_sample_gets_the_outcome_that_its_list_expects() {
        let list = std::fs::read(samples().join("expected.json")).unwrap();
        let list: Vec<serde_json::Value> = serde_json::from_slice(&list).unwrap();
        assert!(list.len() >= 49);
        let mut wrong = Vec::new();
        for entry in &list {
            let file = entry["file"].as_str().unwrap();
            let bytes = std::fs::read(samples().join(file)).unwrap();
            let judgement = judge(&bytes, Claim::parse(mime_of(file)).unwrap());
            // duplicates are the attestor's to find: it alone knows what it accepted before
            let expected = match entry["reason"].as_str() {
                None | Some("duplicate") => "accepted",
                Some(reason) => reason,
            };
            if judgement.outcome.name() != expected {
                wrong.push(format!("{file}: expected {expected}, got {judgement:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_good_file_cut_anywhere_is_never_accepted() {
        for file in [
            "voice/ko-004.wav",
            "voice/ko-006.flac",
            "voice/ko-012.ogg",
            "voice/ko-014.m4a",
            "voice/ko-008.mp3",
            "photo/photo-003.jpg",
            "photo/photo-008.png",
            "photo/photo-012.webp",
            "photo/photo-013.gif",
            "video/clip-001.mp4",
            "video/clip-005.mp4",
            "video/clip-008.mov",
        ] {
            let bytes = std::fs::read(samples().join(file)).unwrap();
            for part in [1, 30, 50, 75, 95] {
                let judgement = judge(&bytes[..bytes.len() * part / 100], Claim::parse(mime_of(file)).unwrap());
                assert_ne!(judgement.outcome, Outcome::Accepted, "{file} cut to {part} %: {judgement:?}");
            }
        }
    }

    #[test]
    fn bytes_turned_over_at_random_never_stop_the_gate() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for file in [
            "voice/bad-short.wav",
            "photo/photo-012.webp",
            "photo/photo-013.gif",
            "video/clip-006.mov",
            "voice/ko-011.ogg",
        ] {
            let bytes = std::fs::read(samples().join(file)).unwrap();
            for _ in 0..20 {
                let mut bytes = bytes.clone();
                for _ in 0..8 {
                    // the head is where sizes and counts are
                    let at = usize::try_from(next()).unwrap() % bytes.len().min(1200);
                    bytes[at] = next().to_le_bytes()[0];
                }
                judge(&bytes, Claim::parse(mime_of(file)).unwrap());
            }
        }
    }

    #[test]
    fn a_type_is_wrong_only_where_another_one_is_recognised() {
        let png = std::fs::read(samples().join("photo/photo-008.png")).unwrap();
        assert_eq!(judge(&png, Claim::parse("image/jpeg").unwrap()).outcome, Outcome::TypeMismatch);
        assert_eq!(judge(b"%PDF-1.7 ...", Claim::parse("image/jpeg").unwrap()).outcome, Outcome::TypeMismatch);
        assert_eq!(judge(b"plain text", Claim::parse("image/jpeg").unwrap()).outcome, Outcome::Undecodable);
        let sound = std::fs::read(samples().join("voice/ko-014.m4a")).unwrap();
        assert_eq!(judge(&sound, Claim::parse("video/mp4").unwrap()).outcome, Outcome::TypeMismatch);
        for mime in ["application/pdf", "audio/wav;\0", &format!("audio/wav;{}", "x".repeat(255))] {
            assert!(Claim::parse(mime).is_none(), "{mime:?}");
        }
        assert_eq!(Claim::parse("Audio/WAV; rate=16000").unwrap().media, Media::Voice);
    }
}
