//! Decodes every frame of an H.264 film in MP4 or QuickTime, and its AAC sound, and measures them.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use openh264::{
    OpenH264API,
    decoder::{Decoder, DecoderConfig, Flush},
    formats::YUVSource,
};
use re_mp4::{Mp4, StsdBoxContent, TrackKind};
use tidemark::verdict::Outcome;

use super::{Facts, Refusal, VIDEO_MS, audio};

/// 60 s at 240 frames a second.
const FRAMES_MAX: usize = 14_400;
/// Of all tracks: 20 s at 48 kHz even where every sound sample stands alone.
const SAMPLES_MAX: u32 = 1 << 20;
const BOXES_MAX: u32 = 4_096;
const DEPTH_MAX: usize = 8;

pub(super) fn decode(bytes: &[u8]) -> Result<Facts, Refusal> {
    check_boxes(bytes)?;
    let film = Mp4::read(Stepwise::new(bytes), bytes.len() as u64)
        .map_err(|error| Refusal::undecodable(format!("expected a whole MP4 or QuickTime file, got: {error}")))?;
    let mut pictures = film.tracks().values().filter(|track| track.kind == Some(TrackKind::Video));
    let has_sound = film.tracks().values().any(|track| track.kind == Some(TrackKind::Audio));
    let Some(track) = pictures.next() else {
        let outcome = if has_sound { Outcome::TypeMismatch } else { Outcome::Undecodable };
        return Err(Refusal { outcome, detail: "expected a picture track, got none".into() });
    };
    for sample in film.tracks().values().flat_map(|track| &track.samples) {
        let end = sample.offset.checked_add(sample.size);
        if end.is_none_or(|end| end > bytes.len() as u64) {
            let detail = format!(
                "expected a sample of {} bytes at {}, got a file of {}",
                sample.size,
                sample.offset,
                bytes.len()
            );
            return Err(Refusal::undecodable(detail));
        }
    }
    let ticks = track.samples.iter().fold(0u64, |sum, sample| sum.saturating_add(sample.duration));
    let duration_ms = ticks.saturating_mul(1000) / track.timescale.max(1);
    if track.samples.len() > FRAMES_MAX {
        let outcome = if duration_ms > VIDEO_MS.1 { Outcome::TooLong } else { Outcome::TooLarge };
        let detail = format!("expected at most {FRAMES_MAX} frames, got {} in {duration_ms} ms", track.samples.len());
        return Err(Refusal { outcome, detail });
    }
    let StsdBoxContent::Avc1(avc) = &track.trak(&film).mdia.minf.stbl.stsd.contents else {
        return Err(Refusal::undecodable("expected H.264 pictures, got another codec"));
    };

    let failed = |error: openh264::Error| Refusal::undecodable(format!("expected every frame to decode, got: {error}"));
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    let mut decoder = Decoder::with_api_config(OpenH264API::from_source(), config).map_err(failed)?;
    let mut measured = Measured::default();
    let mut unit = Vec::new();
    for set in avc.avcc.sequence_parameter_sets.iter().chain(&avc.avcc.picture_parameter_sets) {
        unit.extend_from_slice(&START_CODE);
        unit.extend_from_slice(&set.bytes);
    }
    let length_bytes = usize::from(avc.avcc.length_size_minus_one & 3) + 1;
    for sample in &track.samples {
        let range = usize::try_from(sample.offset).ok().zip(usize::try_from(sample.size).ok());
        let sample = range
            .and_then(|(offset, size)| bytes.get(offset..offset.checked_add(size)?))
            .ok_or_else(|| Refusal::undecodable("expected a sample inside the file"))?;
        append_annex_b(&mut unit, sample, length_bytes)?;
        if let Some(picture) = decoder.decode(&unit).map_err(failed)? {
            measured.see(picture.dimensions());
        }
        unit.clear();
    }
    for picture in decoder.flush_remaining().map_err(failed)? {
        measured.see(picture.dimensions());
    }
    if (measured.frames as usize) < track.samples.len() {
        return Err(Refusal::undecodable(format!("expected {} frames, got {}", track.samples.len(), measured.frames)));
    }
    if has_sound {
        audio::decode_track(bytes, "mp4")?;
    }
    Ok(Facts {
        duration_ms: Some(duration_ms),
        width: Some(measured.width),
        height: Some(measured.height),
        frames: Some(measured.frames),
        ..Facts::default()
    })
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// A file of which no more steps are read than it has bytes: the demuxer would turn for ever on a box of size 0 inside
/// another one.
struct Stepwise<'a> {
    file: Cursor<&'a [u8]>,
    left: u64,
}

impl<'a> Stepwise<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { file: Cursor::new(bytes), left: bytes.len() as u64 }
    }
}

impl Read for Stepwise<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ended = || io::Error::other("its boxes have no end");
        self.left = self.left.checked_sub(1).ok_or_else(ended)?;
        self.file.read(buffer)
    }
}

impl Seek for Stepwise<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[derive(Default)]
struct Measured {
    frames: u32,
    width: u32,
    height: u32,
}

impl Measured {
    /// Counts a frame; keeps the least width and height seen.
    fn see(&mut self, (width, height): (usize, usize)) {
        let (width, height) = (u32::try_from(width).unwrap_or(u32::MAX), u32::try_from(height).unwrap_or(u32::MAX));
        self.width = if self.frames == 0 { width } else { self.width.min(width) };
        self.height = if self.frames == 0 { height } else { self.height.min(height) };
        self.frames += 1;
    }
}

/// Length-prefixed NAL units (ISO/IEC 14496-15) to start codes (H.264 Annex B).
fn append_annex_b(unit: &mut Vec<u8>, mut sample: &[u8], length_bytes: usize) -> Result<(), Refusal> {
    while !sample.is_empty() {
        let cut = || Refusal::undecodable("expected whole NAL units, got a cut one");
        let (length, rest) = sample.split_at_checked(length_bytes).ok_or_else(cut)?;
        let length = length.iter().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
        let (nal, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        unit.extend_from_slice(&START_CODE);
        unit.extend_from_slice(nal);
        sample = rest;
    }
    Ok(())
}

/// Walks the boxes before a demuxer does: all inside their parents, no fragments, and no tables that declare more
/// samples than a minute can hold, or more bytes than the file has, because demuxers allocate what a table declares, and
/// samples that share their bytes would make a small file hours of work.
pub(super) fn check_boxes(bytes: &[u8]) -> Result<(), Refusal> {
    let mut left = Left { boxes: BOXES_MAX, samples: SAMPLES_MAX, bytes: bytes.len() as u64 };
    left.walk(bytes, 0)
}

/// What the boxes of a file may still have.
struct Left {
    boxes: u32,
    samples: u32,
    bytes: u64,
}

impl Left {
    fn walk(&mut self, mut rest: &[u8], depth: usize) -> Result<(), Refusal> {
        while let Some(head) = rest.first_chunk::<8>() {
            let too_many = || Refusal::undecodable(format!("expected at most {BOXES_MAX} boxes, got more"));
            self.boxes = self.boxes.checked_sub(1).ok_or_else(too_many)?;
            let [a, b, c, d, kind @ ..] = *head;
            let name = String::from_utf8_lossy(&kind);
            let (header, size) = match u32::from_be_bytes([a, b, c, d]) {
                0 if depth == 0 => (8, rest.len() as u64),
                0 => return Ok(()),
                // demuxers disagree on long sizes where no film needs them
                1 if depth == 0 && &kind == b"mdat" => match rest.get(8..16).and_then(<[u8]>::first_chunk::<8>) {
                    Some(long) => (16, u64::from_be_bytes(*long)),
                    None => return Err(Refusal::undecodable("expected a whole box header, got a cut one")),
                },
                1 => {
                    return Err(Refusal::undecodable(format!(
                        "expected box {name:?} with a short size, got a long one"
                    )));
                }
                short => (8, u64::from(short)),
            };
            let fitting = usize::try_from(size).ok().filter(|&size| size >= header && size <= rest.len());
            let size = fitting.ok_or_else(|| {
                let left = rest.len();
                Refusal::undecodable(format!("expected box {name:?} to fit, got {size} bytes where {left} are left"))
            })?;
            let body = rest.get(header..size).unwrap_or_default();
            match &kind {
                b"moof" => return Err(Refusal::undecodable("expected a film in one piece, got a fragmented one")),
                b"moov" | b"trak" | b"edts" | b"mdia" | b"minf" | b"stbl" if depth < DEPTH_MAX => {
                    self.walk(body, depth + 1)?;
                }
                b"stsz" => self.take_samples(body)?,
                _ => {}
            }
            rest = rest.get(size..).unwrap_or_default();
        }
        Ok(())
    }

    /// Version and flags, size of each sample or 0, count, and where that was 0 the sizes one by one.
    fn take_samples(&mut self, table: &[u8]) -> Result<(), Refusal> {
        let number = |bytes: &[u8]| bytes.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let at = |from: usize| table.get(from..).map_or(0, number);
        let (size, count) = (at(4), at(8));
        let too_many = || Refusal::undecodable(format!("expected at most {SAMPLES_MAX} samples, got more"));
        self.samples = self.samples.checked_sub(count).ok_or_else(too_many)?;
        let total = match size {
            0 => {
                let sizes = table.get(12..).unwrap_or_default().chunks_exact(4).take(count as usize);
                sizes.map(|size| u64::from(number(size))).sum()
            }
            size => u64::from(size) * u64::from(count),
        };
        let too_large = || Refusal::undecodable("expected samples of no more bytes than the file has, got more");
        self.bytes = self.bytes.checked_sub(total).ok_or_else(too_large)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes(), &kind[..], body].concat()
    }

    fn film(counts: &[u32]) -> Vec<u8> {
        let tracks: Vec<u8> = counts
            .iter()
            .flat_map(|count| {
                let table = boxed(b"stsz", &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &count.to_be_bytes()].concat());
                boxed(b"trak", &boxed(b"mdia", &boxed(b"minf", &boxed(b"stbl", &table))))
            })
            .collect();
        [boxed(b"ftyp", b"isom\0\0\0\0"), boxed(b"moov", &tracks)].concat()
    }

    #[test]
    fn tables_that_declare_more_than_a_minute_are_refused_before_anything_is_allocated() {
        let film_of = |count: u32| [film(&[count]), boxed(b"mdat", &vec![0; count as usize])].concat();
        assert!(check_boxes(&film_of(3000)).is_ok());
        assert!(check_boxes(&film(&[1000, 2000])).is_err(), "samples that share bytes");
        assert!(check_boxes(&film(&[u32::MAX])).is_err());
        assert!(check_boxes(&film(&[SAMPLES_MAX, 1])).is_err());
    }

    #[test]
    fn boxes_that_do_not_fit_or_hide_their_size_are_refused() {
        let mut cut = film(&[1]);
        cut.pop();
        assert!(check_boxes(&cut).is_err());
        let long = [&1u32.to_be_bytes()[..], b"moov", &24u64.to_be_bytes(), &[0; 8]].concat();
        assert!(check_boxes(&long).is_err());
        assert!(check_boxes(&boxed(b"moof", &[])).is_err());
        assert!(check_boxes(&boxed(b"free", &[]).repeat(5000)).is_err());
    }

    #[test]
    fn boxes_of_size_0_inside_others_do_not_turn_the_demuxer_for_ever() {
        for inside in [&b"moov"[..], b"udta", b"meta", b"trak"] {
            let endless = [&0u32.to_be_bytes()[..], b"free"].concat();
            let body = match inside {
                b"moov" => endless,
                kind => boxed(kind.first_chunk().unwrap(), &[&[0; 4][..], &endless].concat()),
            };
            let film = [boxed(b"ftyp", b"isom\0\0\0\0"), boxed(b"moov", &body), vec![0; 4096]].concat();
            assert_eq!(decode(&film).unwrap_err().outcome, Outcome::Undecodable);
        }
    }
}
