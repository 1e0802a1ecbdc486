//! Recognises a file's form by its first bytes.

/// Forms that the gate can tell apart; the last ones only to say that they are something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Wav,
    Flac,
    Mp3,
    Ogg,
    IsoMedia,
    Jpeg,
    Png,
    Webp,
    Gif,
    Pdf,
    Zip,
    Gzip,
    Matroska,
    Avi,
    Bmp,
    Tiff,
    Elf,
}

impl Form {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Wav => "WAV",
            Self::Flac => "FLAC",
            Self::Mp3 => "MP3",
            Self::Ogg => "Ogg",
            Self::IsoMedia => "MP4 or QuickTime",
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
            Self::Pdf => "PDF",
            Self::Zip => "ZIP",
            Self::Gzip => "gzip",
            Self::Matroska => "Matroska or WebM",
            Self::Avi => "AVI",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Elf => "an ELF executable",
        }
    }
}

/// The form of these bytes, where their beginning tells.
pub(super) fn sniff(bytes: &[u8]) -> Option<Form> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let riff = |kind: &[u8]| starts(b"RIFF") && bytes.get(8..12) == Some(kind);
    Some(match bytes {
        _ if riff(b"WAVE") => Form::Wav,
        _ if riff(b"WEBP") => Form::Webp,
        _ if riff(b"AVI ") => Form::Avi,
        _ if starts(b"fLaC") => Form::Flac,
        _ if starts(b"OggS") => Form::Ogg,
        _ if matches!(bytes.get(4..8), Some(b"ftyp" | b"moov" | b"mdat" | b"wide" | b"free")) => Form::IsoMedia,
        _ if starts(&[0xff, 0xd8, 0xff]) => Form::Jpeg,
        _ if starts(b"\x89PNG\r\n\x1a\n") => Form::Png,
        _ if starts(b"GIF87a") || starts(b"GIF89a") => Form::Gif,
        _ if starts(b"%PDF-") => Form::Pdf,
        _ if starts(b"PK\x03\x04") => Form::Zip,
        _ if starts(&[0x1f, 0x8b]) => Form::Gzip,
        _ if starts(&[0x1a, 0x45, 0xdf, 0xa3]) => Form::Matroska,
        _ if starts(b"II*\0") || starts(b"MM\0*") => Form::Tiff,
        _ if starts(b"\x7fELF") => Form::Elf,
        _ if starts(b"BM") && bytes.get(6..10) == Some(&[0; 4]) => Form::Bmp,
        _ if starts(b"ID3") || is_mpeg_audio_frame(bytes) => Form::Mp3,
        _ => return None,
    })
}

/// Eleven sync bits, then a layer, bit rate and sample rate that exist.
fn is_mpeg_audio_frame(bytes: &[u8]) -> bool {
    let Some(&[first, second, third]) = bytes.first_chunk::<3>() else { return false };
    let layer_3 = second & 0x06 == 0x02;
    let version = second & 0x18 != 0x08;
    first == 0xff && second & 0xe0 == 0xe0 && layer_3 && version && third & 0xf0 != 0xf0 && third & 0x0c != 0x0c
}
