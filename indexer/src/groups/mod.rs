//! Scoped groups: somebody's list of records or hashes, held against what is here at one block and kept as it was then.
//! One operator's own: nothing on chain knows of them, and they go after a while. What is erased leaves them at once.

pub mod input;
mod store;
mod view;
mod work;

pub use store::{Created, Ticket, create, offer_upload, receive_upload, uploaded};
pub use view::{
    ExportError, GroupItem, GroupItems, GroupProfile, GroupSummary, GroupView, csv_rows, group, items, profile,
};
pub use work::work;

/// Items of one group.
pub const ITEMS_MAX: usize = 10_000;
/// Bytes of a group's request, or of an upload.
pub const BODY_BYTES_MAX: usize = 5 << 20;
/// Records of one group: a hash may have many.
const RECEIPTS_MAX: i64 = 50_000;
/// Groups that wait to be computed; more are turned away.
const WAITING_MAX: i64 = 100;
/// Groups, and rows of all of them: what is over goes, oldest first.
const GROUPS_MAX: i64 = 10_000;
const ROWS_MAX: i64 = 5_000_000;
/// Days that a group is kept.
const DAYS_MAX: i32 = 7;
/// Minutes in which an upload has to be used.
const UPLOAD_MINUTES_MAX: i32 = 15;
/// Uploads at once, and their bytes.
const UPLOADS_MAX: i64 = 10_000;
const UPLOADS_BYTES_MAX: i64 = 256 << 20;
/// Providers that a record without a provider's name is looked for with.
const PROVIDERS_MAX: usize = 16;

/// What a group is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Source record ids, all of which have to be here.
    SourceRecord,
    /// Content hashes, each with the records that have it.
    Hash,
}

impl Kind {
    /// As in the database and in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceRecord => "source_record",
            Self::Hash => "hash",
        }
    }

    /// By that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::SourceRecord, Self::Hash].into_iter().find(|kind| kind.name() == name)
    }
}
