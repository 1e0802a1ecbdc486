//! Decodes pictures to the end, animations frame by frame, and measures them.

use std::io::Cursor;

use image::{
    AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};
use tidemark::verdict::Outcome;

use super::{Facts, Refusal, sniff::Form, too_large};

/// 8192 x 8192 pixels of 8 bytes, and what a decoder needs beside.
const ALLOC_BYTES_MAX: u64 = 640 << 20;
/// Over all frames of an animation: 256 frames of 2048 x 1024.
const ANIMATION_PX_MAX: u64 = 1 << 29;

pub(super) fn decode(bytes: &[u8], form: Form) -> Result<Facts, Refusal> {
    let format = match form {
        Form::Png => ImageFormat::Png,
        Form::Webp => ImageFormat::WebP,
        Form::Gif => ImageFormat::Gif,
        _ => {
            whole_jpeg(bytes)?;
            ImageFormat::Jpeg
        }
    };
    let (width, height) = ImageReader::with_format(Cursor::new(bytes), format).into_dimensions().map_err(refusal)?;
    // before anything is decoded: decoders allocate beside the picture what no limit of theirs counts
    if let Some((outcome, detail)) = too_large(width, height) {
        return Err(Refusal { outcome, detail });
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(ALLOC_BYTES_MAX);
    let frames = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(refusal)?;
            decoder.set_limits(limits).map_err(refusal)?;
            if bytes.last() != Some(&0x3b) {
                return Err(Refusal::undecodable("expected a GIF trailer, got none"));
            }
            count_frames(decoder, width, height)?
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refusal)?;
            decoder.set_limits(limits).map_err(refusal)?;
            if decoder.has_animation() {
                count_frames(decoder, width, height)?
            } else {
                DynamicImage::from_decoder(decoder).map_err(refusal)?;
                1
            }
        }
        _ => {
            let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
            reader.limits(limits);
            reader.decode().map_err(refusal)?;
            1
        }
    };
    Ok(Facts { width: Some(width), height: Some(height), frames: Some(frames), ..Facts::default() })
}

fn refusal(error: ImageError) -> Refusal {
    match error {
        ImageError::Limits(error) => Refusal {
            outcome: Outcome::TooLarge,
            detail: format!("expected a picture of at most {ALLOC_BYTES_MAX} bytes decoded: {error}"),
        },
        error => Refusal::undecodable(format!("expected a picture to the end, got: {error}")),
    }
}

fn count_frames<'a>(decoder: impl AnimationDecoder<'a>, width: u32, height: u32) -> Result<u32, Refusal> {
    let frame_px = u64::from(width) * u64::from(height);
    let mut count = 0u32;
    for frame in decoder.into_frames() {
        frame.map_err(refusal)?;
        count += 1;
        if frame_px.saturating_mul(u64::from(count)) > ANIMATION_PX_MAX {
            let detail = format!("expected at most {ANIMATION_PX_MAX} pixels over all frames, got more");
            return Err(Refusal { outcome: Outcome::TooLarge, detail });
        }
    }
    if count == 0 {
        return Err(Refusal::undecodable("expected a picture, got none"));
    }
    Ok(count)
}

/// Walks the markers of a JPEG up to its end: the decoder would fill a cut one up with grey.
fn whole_jpeg(bytes: &[u8]) -> Result<(), Refusal> {
    let cut = || Refusal::undecodable("expected an end-of-image marker, got the end of the file");
    let mut at = 2usize;
    loop {
        // between segments and inside entropy-coded data alike, what counts is the next marker
        let next = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)).ok_or_else(cut)?;
        let marker = *bytes.get(at + next + 1).ok_or_else(cut)?;
        at += next + 1;
        match marker {
            0xff => {}
            0x00 | 0x01 | 0xd0..=0xd8 => at += 1,
            0xd9 => return Ok(()),
            _ => {
                let length = bytes.get(at + 1..at + 3).and_then(<[u8]>::first_chunk::<2>).ok_or_else(cut)?;
                at += 1 + usize::from(u16::from_be_bytes(*length));
            }
        }
    }
}
