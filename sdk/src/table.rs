//! Columns in, Parquet out, and back: the little that manifests need of the format.
//!
//! The bytes are a pure function of the columns: fixed row groups, no statistics, no dictionary, a fixed creator, so that
//! a batch can be rebuilt bit for bit. Hostile files come back as errors, whatever they hold.

use std::{
    fmt::Display,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding, PageType},
    column::{
        page::{CompressedPage, Page, PageMetadata, PageReader, PageWriter},
        reader::{ColumnReader, get_column_reader},
        writer::{ColumnCloseResult, ColumnWriterImpl},
    },
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, KeyValue, OffsetIndexBuilder, PageEncodingStats},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr, WriterVersion},
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite},
    },
    schema::{
        parser::parse_message_type,
        types::{ColumnDescPtr, Type},
    },
};
use rayon::prelude::*;

/// Rows of one row group.
const ROW_GROUP_ROWS: usize = 65_536;
/// Rows of one page: the library ends one where it has 20,000 or more, and looks every 1,024 rows.
const PAGE_ROWS: usize = 20_480;
/// Bytes of one value of fixed width: the library would end pages of wider ones sooner, at 1 MiB.
const WIDTH_MAX: usize = (1 << 20) / PAGE_ROWS;
/// Bytes of the footer: 16 row groups of 13 columns need 30 thousand, and in memory each becomes 30.
const FOOTER_BYTES_MAX: u32 = 1 << 20;
/// Bytes of all pages, decompressed.
const PAGES_BYTES_MAX: usize = 2 << 30;

/// Why bytes are no such table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not Parquet, damaged, or refused by the Parquet library.
    #[error("Parquet")]
    Parquet(#[source] ParquetError),
    /// The library stopped on something that it did not expect.
    #[error("damaged Parquet")]
    Damaged,
    /// Another schema.
    #[error("schema: expected {expected}, got {actual}")]
    Schema {
        /// The schema that the protocol names.
        expected: String,
        /// The file's.
        actual: String,
    },
    /// More rows than allowed, or columns of different lengths.
    #[error("rows: expected at most {max}, got {actual}")]
    Rows {
        /// The bound.
        max: usize,
        /// The file's.
        actual: i64,
    },
}

impl From<ParquetError> for TableError {
    fn from(error: ParquetError) -> Self {
        Self::Parquet(error)
    }
}

/// One column's values.
pub(crate) enum Column {
    /// `INT32 (INTEGER(32 | 8, false))`.
    U32(Vec<u32>),
    /// `INT64 (INTEGER(64, false))`.
    U64(Vec<u64>),
    /// `FIXED_LEN_BYTE_ARRAY`, all rows one after another.
    Fixed(usize, Vec<u8>),
    /// `BYTE_ARRAY (STRING)`.
    Text(Vec<String>),
}

impl Column {
    /// A fixed-width column.
    pub(crate) fn fixed<const N: usize>(rows: impl Iterator<Item = [u8; N]>) -> Self {
        let mut bytes = Vec::with_capacity(rows.size_hint().0 * N);
        for row in rows {
            bytes.extend_from_slice(&row);
        }
        Self::Fixed(N, bytes)
    }
}

/// Reads columns one after another, typed.
pub(crate) struct Columns(std::vec::IntoIter<Column>);

impl Columns {
    /// The next column as `u32`.
    pub(crate) fn u32(&mut self) -> Result<Vec<u32>, TableError> {
        match self.0.next() {
            Some(Column::U32(values)) => Ok(values),
            _ => Err(TableError::Damaged),
        }
    }

    /// The next column as `u64`.
    pub(crate) fn u64(&mut self) -> Result<Vec<u64>, TableError> {
        match self.0.next() {
            Some(Column::U64(values)) => Ok(values),
            _ => Err(TableError::Damaged),
        }
    }

    /// The next column as arrays.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<Vec<[u8; N]>, TableError> {
        match self.0.next() {
            Some(Column::Fixed(width, bytes)) if width == N => {
                bytes.chunks_exact(N).map(|row| row.try_into().map_err(|_| TableError::Damaged)).collect()
            }
            _ => Err(TableError::Damaged),
        }
    }

    /// The next column as text.
    pub(crate) fn text(&mut self) -> Result<Vec<String>, TableError> {
        match self.0.next() {
            Some(Column::Text(values)) => Ok(values),
            _ => Err(TableError::Damaged),
        }
    }
}

fn schema_of(message: &str) -> Result<Arc<Type>, TableError> {
    Ok(Arc::new(parse_message_type(message)?))
}

fn fixed_properties(metadata: Vec<(String, String)>) -> WriterProperties {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("tidemark 1".into())
        .set_compression(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_key_value_metadata(Some(metadata.into_iter().map(|(k, v)| KeyValue::new(k, v)).collect()))
        .build()
}

/// Writes rows under a message type, with key-value metadata. `columns` gives some rows' columns, at most a row group's.
pub(crate) fn write(
    message: &str,
    rows: usize,
    columns: impl Fn(Range<usize>) -> Vec<Column> + Sync,
    metadata: Vec<(String, String)>,
) -> Result<Vec<u8>, TableError> {
    let properties = Arc::new(fixed_properties(metadata));
    let mut file = SerializedFileWriter::new(Vec::new(), schema_of(message)?, Arc::clone(&properties))?;
    let descriptors = file.schema_descr().columns().to_vec();
    let groups: Vec<Range<usize>> =
        (0..rows).step_by(ROW_GROUP_ROWS).map(|from| from..rows.min(from + ROW_GROUP_ROWS)).collect();
    // groups are independent of each other until they stand in the file; as many are held at once as there are cores
    for some in groups.chunks(rayon::current_num_threads().max(1)) {
        let encoded: Vec<_> = some
            .par_iter()
            .map(|rows| encode(rows.clone(), &columns, &descriptors, &properties))
            .collect::<Result<_, _>>()?;
        for chunks in encoded {
            let mut group = file.next_row_group()?;
            for (bytes, closed) in chunks {
                group.append_column(&bytes, closed)?;
            }
            group.close()?;
        }
    }
    Ok(file.into_inner()?)
}

/// The pages of one column in one row group.
type Chunk = (Bytes, ColumnCloseResult);

/// The pages of some rows, column by column. A page's rows at a time, so that they are still in the cache when they are
/// compressed.
fn encode(
    rows: Range<usize>,
    columns: &impl Fn(Range<usize>) -> Vec<Column>,
    descriptors: &[ColumnDescPtr],
    properties: &WriterPropertiesPtr,
) -> Result<Vec<Chunk>, TableError> {
    let mut parts: Vec<Part> = descriptors.iter().map(|descriptor| Part::new(descriptor, rows.len())).collect();
    let mut room = Room { plain: Vec::new(), compressed: Vec::new(), snappy: snap::raw::Encoder::new() };
    for from in rows.clone().step_by(PAGE_ROWS) {
        let page = from..rows.end.min(from + PAGE_ROWS);
        let columns = columns(page.clone());
        if columns.len() != parts.len() {
            return Err(TableError::Damaged);
        }
        for (part, column) in parts.iter_mut().zip(columns) {
            part.push(column, page.len(), &mut room)?;
        }
    }
    parts
        .into_iter()
        .zip(descriptors)
        .map(|(part, descriptor)| match part {
            Part::Plain(_, pages) => pages.close(descriptor, rows.len()),
            Part::Text(values) => encode_text(&values, rows.len(), Arc::clone(descriptor), Arc::clone(properties)),
        })
        .collect()
}

/// One column of a row group that is being written.
enum Part {
    /// Values of so many bytes.
    Plain(usize, PlainPages),
    /// Of any length: the library says where pages end.
    Text(Vec<String>),
}

impl Part {
    fn new(descriptor: &ColumnDescPtr, rows: usize) -> Self {
        use parquet::basic::Type::{BYTE_ARRAY, INT32, INT64};
        let width = match descriptor.physical_type() {
            BYTE_ARRAY => return Self::Text(Vec::with_capacity(rows)),
            INT32 => 4,
            INT64 => 8,
            _ => usize::try_from(descriptor.type_length()).unwrap_or(0),
        };
        Self::Plain(width, PlainPages::new(width * rows))
    }

    /// Takes one page's rows.
    fn push(&mut self, column: Column, rows: usize, room: &mut Room) -> Result<(), TableError> {
        let (width, pages) = match (self, column) {
            (Self::Plain(4, pages), Column::U32(values)) => {
                room.lay_out(values.iter().map(|value| value.to_le_bytes()));
                (4, pages)
            }
            (Self::Plain(8, pages), Column::U64(values)) => {
                room.lay_out(values.iter().map(|value| value.to_le_bytes()));
                (8, pages)
            }
            (Self::Plain(declared, pages), Column::Fixed(width, bytes)) if *declared == width => {
                room.plain = bytes;
                (width, pages)
            }
            (Self::Text(all), Column::Text(values)) => {
                all.extend(values);
                return Ok(());
            }
            _ => return Err(TableError::Damaged),
        };
        if width > WIDTH_MAX || room.plain.len() != rows * width {
            return Err(TableError::Damaged);
        }
        pages.push(rows, room)
    }
}

/// What a page needs while it is made.
struct Room {
    plain: Vec<u8>,
    compressed: Vec<u8>,
    snappy: snap::raw::Encoder,
}

impl Room {
    fn lay_out<const N: usize>(&mut self, values: impl Iterator<Item = [u8; N]>) {
        self.plain.clear();
        for value in values {
            self.plain.extend_from_slice(&value);
        }
    }
}

/// Pages of values of one width.
///
/// The library's column writer gives the same bytes, but takes every value as an object of its own, which costs as much as
/// all the rest of a manifest.
struct PlainPages {
    written: TrackedWrite<Vec<u8>>,
    places: OffsetIndexBuilder,
    count: i32,
    bytes_plain: usize,
    bytes_compressed: usize,
}

impl PlainPages {
    fn new(bytes: usize) -> Self {
        Self {
            written: TrackedWrite::new(Vec::with_capacity(bytes)),
            places: OffsetIndexBuilder::new(),
            count: 0,
            bytes_plain: 0,
            bytes_compressed: 0,
        }
    }

    fn push(&mut self, rows: usize, room: &mut Room) -> Result<(), TableError> {
        let failed = |what: String| ParquetError::General(format!("write a page of {rows} rows: {what}"));
        let bytes = room.plain.len();
        room.compressed.resize(snap::raw::max_compress_len(bytes), 0);
        let compressed =
            room.snappy.compress(&room.plain, &mut room.compressed).map_err(|error| failed(error.to_string()))?;
        room.compressed.truncate(compressed);
        let buf = Bytes::from(std::mem::take(&mut room.compressed));
        let page = Page::DataPage {
            buf: buf.clone(),
            num_values: u32::try_from(rows).map_err(|error| failed(error.to_string()))?,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let spec = SerializedPageWriter::new(&mut self.written).write_page(CompressedPage::new(page, bytes))?;
        // nobody else holds it any more, so that this is the same memory
        room.compressed = buf.into();
        self.places.append_row_count(i64::from(spec.num_values));
        self.places.append_offset_and_size(number(spec.offset)?, number(spec.compressed_size)?);
        self.count += 1;
        self.bytes_plain += spec.uncompressed_size;
        self.bytes_compressed += spec.compressed_size;
        Ok(())
    }

    fn close(self, descriptor: &ColumnDescPtr, rows: usize) -> Result<Chunk, TableError> {
        let stats = PageEncodingStats { page_type: PageType::DATA_PAGE, encoding: Encoding::PLAIN, count: self.count };
        let metadata = ColumnChunkMetaData::builder(Arc::clone(descriptor))
            .set_compression(Compression::SNAPPY)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_page_encoding_stats(vec![stats])
            .set_total_compressed_size(number(self.bytes_compressed)?)
            .set_total_uncompressed_size(number(self.bytes_plain)?)
            .set_num_values(number(rows)?)
            .set_data_page_offset(0)
            .build()?;
        let written = self.written.into_inner()?;
        let closed = ColumnCloseResult {
            bytes_written: number(written.len())?,
            rows_written: number(rows)?,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(self.places.build()),
        };
        Ok((written.into(), closed))
    }
}

fn number<From: Copy + Display, To: TryFrom<From>>(from: From) -> Result<To, ParquetError> {
    To::try_from(from).map_err(|_| ParquetError::General(format!("{from} is more than Parquet counts")))
}

fn encode_text(
    values: &[String],
    rows: usize,
    descriptor: ColumnDescPtr,
    properties: WriterPropertiesPtr,
) -> Result<Chunk, TableError> {
    // where the library looks whether a page is full, so that pages end at the same rows as in one piece
    let piece = properties.write_batch_size();
    let mut pages = TrackedWrite::new(Vec::new());
    let mut writer =
        ColumnWriterImpl::<ByteArrayType>::new(descriptor, properties, Box::new(SerializedPageWriter::new(&mut pages)));
    let mut written = 0;
    for values in values.chunks(piece) {
        let values: Vec<ByteArray> = values.iter().map(|v| v.as_str().into()).collect();
        written += writer.write_batch(&values, None, None)?;
    }
    if written != rows {
        return Err(TableError::Damaged);
    }
    let closed = writer.close()?;
    Ok((pages.into_inner()?.into(), closed))
}

/// A table that was read.
pub(crate) struct Table {
    pub(crate) rows: usize,
    pub(crate) columns: Columns,
    pub(crate) metadata: Vec<(String, String)>,
}

/// Reads a table that must have exactly this message type and at most `rows_max` rows.
pub(crate) fn read(message: &str, rows_max: usize, bytes: Bytes) -> Result<Table, TableError> {
    // the library is known to panic on some damaged files; nothing of ours is left half done when it does
    std::panic::catch_unwind(AssertUnwindSafe(|| read_trusting(message, rows_max, bytes)))
        .unwrap_or(Err(TableError::Damaged))
}

/// Reads pages in the fixed layout and no other, up to a bound in sum: a dictionary, or values that share their beginnings,
/// would make a small file large without end.
struct CheckedPages {
    pages: Box<dyn PageReader>,
    left: Arc<AtomicUsize>,
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        let Some(read) = &page else { return Ok(None) };
        if !matches!(read, Page::DataPage { encoding: Encoding::PLAIN, .. }) {
            return Err(ParquetError::General("expected pages of version 1 in plain encoding, got others".into()));
        }
        let length = read.buffer().len();
        let taken = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(length));
        taken.map_err(|_| ParquetError::General(format!("expected at most {PAGES_BYTES_MAX} bytes decompressed")))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }
}

impl Iterator for CheckedPages {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

fn read_trusting(message: &str, rows_max: usize, bytes: Bytes) -> Result<Table, TableError> {
    // length and magic are the last eight bytes
    let footer = bytes.len().checked_sub(8).and_then(|at| bytes.get(at..)?.first_chunk::<4>().copied());
    if footer.is_none_or(|length| u32::from_le_bytes(length) > FOOTER_BYTES_MAX) {
        return Err(TableError::Damaged);
    }
    let left = Arc::new(AtomicUsize::new(PAGES_BYTES_MAX));
    let file = SerializedFileReader::new(bytes)?;
    let expected = schema_of(message)?;
    let header = file.metadata().file_metadata();
    if header.schema() != expected.as_ref() {
        let actual = format!("{:?}", header.schema()).chars().take(2_000).collect();
        return Err(TableError::Schema { expected: message.into(), actual });
    }
    let rows_of = |actual: i64| {
        usize::try_from(actual).ok().filter(|rows| *rows <= rows_max).ok_or(TableError::Rows { max: rows_max, actual })
    };
    let rows = rows_of(header.num_rows())?;
    let metadata = header
        .key_value_metadata()
        .map(|pairs| pairs.iter().map(|kv| (kv.key.clone(), kv.value.clone().unwrap_or_default())).collect())
        .unwrap_or_default();
    let mut columns: Vec<Column> = Vec::new();
    for field in expected.get_fields() {
        columns.push(match field.get_physical_type() {
            parquet::basic::Type::INT32 => Column::U32(Vec::with_capacity(rows)),
            parquet::basic::Type::INT64 => Column::U64(Vec::with_capacity(rows)),
            parquet::basic::Type::BYTE_ARRAY => Column::Text(Vec::with_capacity(rows)),
            _ => Column::Fixed(0, Vec::new()),
        });
    }
    let mut fixed: Vec<Vec<u8>> = columns.iter().map(|_| Vec::new()).collect();
    let mut seen = 0usize;
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let count = rows_of(group.metadata().num_rows())?;
        seen += count;
        rows_of(i64::try_from(seen).unwrap_or(i64::MAX))?;
        for (at, column) in columns.iter_mut().enumerate() {
            let pages = CheckedPages { pages: group.get_column_page_reader(at)?, left: Arc::clone(&left) };
            let reader = get_column_reader(group.metadata().column(at).column_descr_ptr(), Box::new(pages));
            let read = match (reader, column) {
                (ColumnReader::Int32ColumnReader(mut r), Column::U32(values)) => {
                    let mut part = Vec::with_capacity(count);
                    r.read_records(count, None, None, &mut part)?;
                    values.extend(part.iter().map(|v| v.cast_unsigned()));
                    part.len()
                }
                (ColumnReader::Int64ColumnReader(mut r), Column::U64(values)) => {
                    let mut part = Vec::with_capacity(count);
                    r.read_records(count, None, None, &mut part)?;
                    values.extend(part.iter().map(|v| v.cast_unsigned()));
                    part.len()
                }
                (ColumnReader::FixedLenByteArrayColumnReader(mut r), Column::Fixed(width, _)) => {
                    let mut part = Vec::with_capacity(count);
                    r.read_records(count, None, None, &mut part)?;
                    for value in &part {
                        *width = value.len();
                        fixed[at].extend_from_slice(value.data());
                    }
                    part.len()
                }
                (ColumnReader::ByteArrayColumnReader(mut r), Column::Text(values)) => {
                    let mut part = Vec::with_capacity(count);
                    r.read_records(count, None, None, &mut part)?;
                    for value in &part {
                        values.push(value.as_utf8()?.to_owned());
                    }
                    part.len()
                }
                _ => return Err(TableError::Damaged),
            };
            if read != count {
                return Err(TableError::Damaged);
            }
        }
    }
    if seen != rows {
        return Err(TableError::Damaged);
    }
    for ((column, bytes), field) in columns.iter_mut().zip(fixed).zip(expected.get_fields()) {
        if let Column::Fixed(width, held) = column {
            let declared = match field.as_ref() {
                Type::PrimitiveType { type_length, .. } => usize::try_from(*type_length).unwrap_or(0),
                Type::GroupType { .. } => 0,
            };
            if bytes.len() != declared * rows {
                return Err(TableError::Damaged);
            }
            *width = declared;
            *held = bytes;
        }
    }
    Ok(Table { rows, columns: Columns(columns.into_iter()), metadata })
}

#[cfg(test)]
mod tests {
    use parquet::{
        data_type::{FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type},
        file::properties::WriterPropertiesBuilder,
    };

    use super::*;

    const TEXTS: &str = "message t { REQUIRED BYTE_ARRAY text (STRING); }";
    const HASHES: &str = "message t { REQUIRED FIXED_LEN_BYTE_ARRAY (32) hash; }";

    fn properties() -> WriterPropertiesBuilder {
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_dictionary_enabled(false)
    }

    fn texts(rows: usize, text: &str, properties: WriterPropertiesBuilder) -> Bytes {
        let schema = schema_of(TEXTS).unwrap();
        let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&vec![text.into(); rows], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        file.into_inner().unwrap().into()
    }

    /// What the library writes by itself.
    fn written_by_the_library(message: &str, columns: &[Column], metadata: Vec<(String, String)>) -> Vec<u8> {
        let properties = Arc::new(fixed_properties(metadata));
        let mut file = SerializedFileWriter::new(Vec::new(), schema_of(message).unwrap(), properties).unwrap();
        let rows = match &columns[0] {
            Column::U32(values) => values.len(),
            _ => unreachable!(),
        };
        for from in (0..rows).step_by(ROW_GROUP_ROWS) {
            let rows = from..rows.min(from + ROW_GROUP_ROWS);
            let mut group = file.next_row_group().unwrap();
            for column in columns {
                let mut writer = group.next_column().unwrap().unwrap();
                match column {
                    Column::U32(values) => {
                        let values: Vec<i32> = values[rows.clone()].iter().map(|v| v.cast_signed()).collect();
                        writer.typed::<Int32Type>().write_batch(&values, None, None).unwrap();
                    }
                    Column::U64(values) => {
                        let values: Vec<i64> = values[rows.clone()].iter().map(|v| v.cast_signed()).collect();
                        writer.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
                    }
                    Column::Fixed(width, bytes) => {
                        let values: Vec<FixedLenByteArray> = bytes[rows.start * width..rows.end * width]
                            .chunks(*width)
                            .map(|value| ByteArray::from(value.to_vec()).into())
                            .collect();
                        writer.typed::<FixedLenByteArrayType>().write_batch(&values, None, None).unwrap();
                    }
                    Column::Text(values) => {
                        let values: Vec<ByteArray> = values[rows.clone()].iter().map(|v| v.as_str().into()).collect();
                        writer.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                    }
                }
                writer.close().unwrap();
            }
            group.close().unwrap();
        }
        file.into_inner().unwrap()
    }

    #[test]
    fn our_pages_are_the_library_s_to_the_byte() {
        let message = format!(
            "message t {{ REQUIRED INT32 a (INTEGER(32,false)); REQUIRED FIXED_LEN_BYTE_ARRAY (32) b;
              REQUIRED INT64 c (INTEGER(64,false)); REQUIRED BYTE_ARRAY d (STRING);
              REQUIRED FIXED_LEN_BYTE_ARRAY ({WIDTH_MAX}) e; }}"
        );
        let noise = |seed: u32, length: usize| -> Vec<u8> {
            let mut state = seed;
            let next = move || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            std::iter::repeat_with(next).take(length).collect()
        };
        let group = ROW_GROUP_ROWS;
        for rows in [0, 1, 1_024, PAGE_ROWS - 1, PAGE_ROWS, PAGE_ROWS + 1, group - 1, group, group + 1, 3 * group] {
            let columns = |range: Range<usize>| {
                let numbers = range.start as u32..range.end as u32;
                let count = range.len();
                vec![
                    Column::U32(numbers.clone().map(|i| i.wrapping_mul(2_654_435_761)).collect()),
                    Column::fixed(numbers.clone().map(|i| <[u8; 32]>::try_from(noise(i, 32)).unwrap())),
                    Column::U64(numbers.clone().map(|i| u64::MAX - u64::from(i / 7)).collect()),
                    Column::Text(numbers.map(|i| "tide ".repeat(i as usize % 40)).collect()),
                    Column::Fixed(WIDTH_MAX, vec![3; count * WIDTH_MAX]),
                ]
            };
            let metadata = vec![("key".to_owned(), rows.to_string())];
            let ours = write(&message, rows, columns, metadata.clone()).unwrap();
            assert!(ours == written_by_the_library(&message, &columns(0..rows), metadata), "{rows} rows");
        }
        let wider = format!("message t {{ REQUIRED FIXED_LEN_BYTE_ARRAY ({}) a; }}", WIDTH_MAX + 1);
        let columns = |range: Range<usize>| vec![Column::Fixed(WIDTH_MAX + 1, vec![3; range.len() * (WIDTH_MAX + 1)])];
        assert!(matches!(write(&wider, 1, columns, Vec::new()), Err(TableError::Damaged)));
        let shorter = |range: Range<usize>| vec![Column::Fixed(32, vec![3; range.len() * 32 - 1])];
        assert!(matches!(write(HASHES, 2, shorter, Vec::new()), Err(TableError::Damaged)));
    }

    #[test]
    fn a_small_file_that_unfolds_without_end_is_refused() {
        let text = "x".repeat(1 << 10);
        assert!(read(TEXTS, 100, texts(100, &text, properties())).is_ok());
        // the more rows and the longer the one text, the worse: these are 16 MiB in a few thousand bytes
        let bomb = texts(256, &"x".repeat(1 << 16), properties().set_dictionary_enabled(true));
        assert!(bomb.len() < 1 << 13, "{}", bomb.len());
        assert!(matches!(read(TEXTS, 256, bomb), Err(TableError::Parquet(_))));
        let shared = properties().set_encoding(Encoding::DELTA_BYTE_ARRAY);
        assert!(matches!(read(TEXTS, 100, texts(100, &text, shared)), Err(TableError::Parquet(_))));
        let newer = properties().set_writer_version(WriterVersion::PARQUET_2_0).set_encoding(Encoding::PLAIN);
        assert!(matches!(read(TEXTS, 100, texts(100, &text, newer)), Err(TableError::Parquet(_))));
    }

    #[test]
    fn hashes_of_other_lengths_than_declared_are_refused() {
        let schema = schema_of(HASHES).unwrap();
        let properties = properties().set_encoding(Encoding::DELTA_BYTE_ARRAY).build();
        let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let hash = FixedLenByteArray::from(ByteArray::from(vec![7; 32]));
        column.typed::<FixedLenByteArrayType>().write_batch(&vec![hash; 10], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        let bytes = file.into_inner().unwrap().into();
        assert!(matches!(read(HASHES, 10, bytes), Err(TableError::Parquet(_))));
    }

    #[test]
    fn a_footer_that_is_cut_or_larger_than_any_of_ours_is_refused() {
        let good = texts(1, "x", properties());
        for length in 0..good.len() {
            assert!(read(TEXTS, 1, good.slice(..length)).is_err(), "{length}");
        }
        let mut huge = good.to_vec();
        let at = huge.len() - 8;
        huge[at..at + 4].copy_from_slice(&(FOOTER_BYTES_MAX + 1).to_le_bytes());
        assert!(matches!(read(TEXTS, 1, huge.into()), Err(TableError::Damaged)));
    }
}
