//! Decodes sound to the end and measures it.

use std::io::Cursor;

use symphonia::core::{
    codecs::audio::AudioDecoderOptions,
    formats::{FormatOptions, TrackType, probe::Hint},
    io::{MediaSourceStream, MediaSourceStreamOptions},
    meta::MetadataOptions,
};

use super::{Facts, Refusal, VOICE_MS, sniff::Form, video};

/// Decodes the file's sound track; stops, as too long, once twice the greatest duration has come out.
pub(super) fn decode(bytes: &[u8], form: Form) -> Result<Facts, Refusal> {
    match form {
        Form::Ogg => whole_ogg(bytes)?,
        Form::Wav => whole_wav(bytes)?,
        Form::IsoMedia => video::check_boxes(bytes)?,
        _ => {}
    }
    let hint = match form {
        Form::Wav => "wav",
        Form::Flac => "flac",
        Form::Mp3 => "mp3",
        Form::Ogg => "ogg",
        _ => "m4a",
    };
    decode_track(bytes, hint)
}

/// Decodes the default sound track of any container that symphonia knows.
pub(super) fn decode_track(bytes: &[u8], extension: &str) -> Result<Facts, Refusal> {
    let failed = |error: symphonia::core::errors::Error| {
        Refusal::undecodable(format!("expected sound to the end, got: {error}"))
    };
    let source = MediaSourceStream::new(Box::new(Cursor::new(bytes.to_vec())), MediaSourceStreamOptions::default());
    let mut hint = Hint::new();
    hint.with_extension(extension);
    let mut format = symphonia::default::get_probe()
        .probe(&hint, source, FormatOptions::default(), MetadataOptions::default())
        .map_err(failed)?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or_else(|| Refusal::undecodable("expected a sound track, got none"))?;
    let (id, declared) = (track.id, track.num_frames);
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|parameters| parameters.audio())
        .ok_or_else(|| Refusal::undecodable("expected a known sound codec, got another"))?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(failed)?;

    let mut frames = 0u64;
    let mut rate = 0u32;
    while let Some(packet) = format.next_packet().map_err(failed)? {
        if packet.track_id != id {
            continue;
        }
        let buffer = decoder.decode(&packet).map_err(failed)?;
        frames += buffer.frames() as u64;
        rate = buffer.spec().rate();
        if frames.saturating_mul(1000) > VOICE_MS.1.saturating_mul(2).saturating_mul(u64::from(rate)) {
            break;
        }
    }
    if rate == 0 || frames == 0 {
        return Err(Refusal::undecodable("expected sound, got none"));
    }
    let duration_ms = frames.saturating_mul(1000) / u64::from(rate);
    if let Some(declared) = declared
        && duration_ms <= VOICE_MS.1
        && frames + FRAMES_SLACK < declared
    {
        return Err(Refusal::undecodable(format!("expected {declared} sound frames, got {frames}")));
    }
    Ok(Facts { duration_ms: Some(duration_ms), sample_rate_hz: Some(rate), ..Facts::default() })
}

/// How many frames fewer than declared still count as all: a codec's delay and padding.
const FRAMES_SLACK: u64 = 1_152;

/// Walks the pages of an Ogg file (RFC 3533): the demuxer would take a cut one as one that just ends earlier.
fn whole_ogg(bytes: &[u8]) -> Result<(), Refusal> {
    let mut at = 0usize;
    let mut ended = false;
    while at < bytes.len() {
        let page = bytes.get(at..).unwrap_or_default();
        let cut = || Refusal::undecodable("expected whole Ogg pages, got a cut one");
        let header = page.first_chunk::<27>().ok_or_else(cut)?;
        if !header.starts_with(b"OggS") {
            return Err(Refusal::undecodable("expected an Ogg page, got other bytes"));
        }
        ended = header[5] & 4 != 0;
        let segments = page.get(27..27 + usize::from(header[26])).ok_or_else(cut)?;
        let length = 27 + segments.len() + segments.iter().map(|&length| usize::from(length)).sum::<usize>();
        if page.len() < length {
            return Err(cut());
        }
        at += length;
    }
    if !ended {
        return Err(Refusal::undecodable("expected a last Ogg page, got none"));
    }
    Ok(())
}

/// Walks the chunks of a WAV file: the sound chunk must be there as long as it says.
fn whole_wav(bytes: &[u8]) -> Result<(), Refusal> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some(header) = rest.first_chunk::<8>() {
        let size = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let available = rest.len() - 8;
        if header.starts_with(b"data") {
            if size > available {
                return Err(Refusal::undecodable(format!("expected {size} bytes of sound, got {available}")));
            }
            return Ok(());
        }
        rest = rest.get(8 + size + size % 2..).unwrap_or_default();
    }
    Err(Refusal::undecodable("expected a sound chunk, got none"))
}
