//! Two messages of ISO 20022: the credit transfer that is written for a bank (`pain.001.001.09`), and the status report that
//! comes back (`pain.002.001`, any version).
//!
//! Sources: the message definitions of iso20022.org (names, order, lengths, patterns), and the implementation guidelines of
//! the European Payments Council for what euro transfers add: the Latin character set, `SEPA` and `SLEV`. What is written here is
//! held against the schema itself by `tests/python/test_bank_files.py`.

use anyhow::ensure;
use iban::IbanLike;
use iso_currency::Currency;
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event},
};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Digits of an amount: `totalDigits` of the schema.
const AMOUNT_DIGITS_MAX: usize = 18;
/// Characters of a name that every bank takes; the schema has 140.
const NAME_CHARS_MAX: usize = 70;

/// Who pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debtor {
    /// Name of the account's holder.
    pub name: String,
    /// Its account, without spaces.
    pub iban: String,
    /// Its bank; banks of the euro area do without.
    pub bic: Option<String>,
}

/// One payment to one recipient.
#[derive(Clone, PartialEq, Eq)]
pub struct CreditTransfer<'a> {
    /// The payout that it pays.
    pub key: Uuid,
    /// Unix seconds when it was asked for: the file's date, so that it is the same whenever it is made.
    pub asked_at: i64,
    /// An ISO 4217 code.
    pub currency: &'a str,
    /// Minor units.
    pub minor: u128,
    /// Who pays.
    pub debtor: &'a Debtor,
    /// The recipient's name.
    pub name: &'a str,
    /// Its account, without spaces.
    pub iban: &'a str,
    /// Its bank, where it was given.
    pub bic: Option<&'a str>,
}

/// The one id of a payout at the bank: of its message, its payment and its transfer, in the same file for ever.
pub fn message_id(key: Uuid) -> String {
    format!("TM{}", key.simple())
}

/// The payout of an id.
pub fn key_of(message_id: &str) -> Option<Uuid> {
    let digits = message_id.strip_prefix("TM").filter(|digits| digits.len() == 32)?;
    let key = Uuid::try_parse(digits).ok()?;
    // in no other spelling
    (self::message_id(key) == message_id).then_some(key)
}

/// A name in the letters that all banks take: `a-z A-Z 0-9 / - ? : ( ) . , ' +` and spaces between them.
pub fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "/-?:().,'+ ".contains(c);
    (1..=NAME_CHARS_MAX).contains(&text.len())
        && text.chars().all(letter)
        && text.trim() == text
        && !text.starts_with('/')
        && !text.contains("//")
}

/// Four letters or digits of the bank, two letters of its country, two of its place, and perhaps three of a branch.
pub fn is_bic(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.len(), 8 | 11)
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 5 => byte.is_ascii_uppercase(),
            _ => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        })
}

/// An IBAN in its electronic form, where its length and its check digits are right.
pub fn read_iban(text: &str) -> Option<String> {
    let iban: iban::Iban = text.parse().ok()?;
    (iban.electronic_str() == text).then(|| text.to_owned())
}

/// Digits behind the point of a currency, where it has an amount at all.
pub fn decimals(currency: &str) -> Option<usize> {
    Currency::from_code(currency)?.exponent().map(usize::from)
}

/// An amount as the schema wants it: at most 18 digits, and as many behind the point as the currency has.
pub fn amount(currency: &str, minor: u128) -> Option<String> {
    let decimals = decimals(currency)?;
    let digits = format!("{minor:0>width$}", width = decimals.saturating_add(1));
    if minor == 0 || digits.len() > AMOUNT_DIGITS_MAX || decimals > 5 {
        return None;
    }
    let (whole, part) = digits.split_at(digits.len().saturating_sub(decimals));
    Some(if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") })
}

/// An element with what is in it.
enum Node {
    Text(&'static str, String),
    Amount(&'static str, String),
    Tree(&'static str, Vec<Node>),
}

fn text(name: &'static str, value: impl Into<String>) -> Node {
    Node::Text(name, value.into())
}

fn tree(name: &'static str, children: Vec<Node>) -> Node {
    Node::Tree(name, children)
}

fn write(writer: &mut Writer<Vec<u8>>, node: &Node, currency: &str) -> std::io::Result<()> {
    let (name, start) = match node {
        Node::Text(name, _) | Node::Tree(name, _) => (name, BytesStart::new(*name)),
        Node::Amount(name, _) => (name, BytesStart::new(*name).with_attributes([("Ccy", currency)])),
    };
    writer.write_event(Event::Start(start))?;
    match node {
        Node::Text(_, value) | Node::Amount(_, value) => writer.write_event(Event::Text(BytesText::new(value)))?,
        Node::Tree(_, children) => children.iter().try_for_each(|child| write(writer, child, currency))?,
    }
    writer.write_event(Event::End(BytesEnd::new(*name)))
}

/// The file for a payout, byte for byte the same each time. `None` where its amount or its time has no such form.
pub fn credit_transfer(order: &CreditTransfer<'_>) -> Option<Vec<u8>> {
    let id = message_id(order.key);
    let amount = amount(order.currency, order.minor)?;
    let asked_at = OffsetDateTime::from_unix_timestamp(order.asked_at).ok()?;
    let at = asked_at.format(&Rfc3339).ok()?;
    let is_euro = order.currency == "EUR";
    let bank = |bic: Option<&str>| match bic {
        Some(bic) => tree("FinInstnId", vec![text("BICFI", bic)]),
        // what to write where the account names its bank by itself
        None => tree("FinInstnId", vec![tree("Othr", vec![text("Id", "NOTPROVIDED")])]),
    };
    let account = |iban: &str| tree("Id", vec![text("IBAN", iban)]);
    let mut transfer = vec![
        tree("PmtId", vec![text("InstrId", &id), text("EndToEndId", &id)]),
        tree("Amt", vec![Node::Amount("InstdAmt", amount.clone())]),
    ];
    if let Some(bic) = order.bic {
        transfer.push(tree("CdtrAgt", vec![bank(Some(bic))]));
    }
    transfer.extend([
        tree("Cdtr", vec![text("Nm", order.name)]),
        tree("CdtrAcct", vec![account(order.iban)]),
        tree("RmtInf", vec![text("Ustrd", format!("Tidemark payout {}", order.key))]),
    ]);
    let mut payment =
        vec![text("PmtInfId", &id), text("PmtMtd", "TRF"), text("NbOfTxs", "1"), text("CtrlSum", &amount)];
    if is_euro {
        payment.push(tree("PmtTpInf", vec![tree("SvcLvl", vec![text("Cd", "SEPA")])]));
    }
    payment.extend([
        tree("ReqdExctnDt", vec![text("Dt", at.get(..10)?)]),
        tree("Dbtr", vec![text("Nm", &order.debtor.name)]),
        tree("DbtrAcct", vec![account(&order.debtor.iban)]),
        tree("DbtrAgt", vec![bank(order.debtor.bic.as_deref())]),
        text("ChrgBr", if is_euro { "SLEV" } else { "SHAR" }),
        tree("CdtTrfTxInf", transfer),
    ]);
    let header = vec![
        text("MsgId", &id),
        text("CreDtTm", at),
        text("NbOfTxs", "1"),
        text("CtrlSum", amount),
        tree("InitgPty", vec![text("Nm", &order.debtor.name)]),
    ];
    let message = tree("CstmrCdtTrfInitn", vec![tree("GrpHdr", header), tree("PmtInf", payment)]);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None))).ok()?;
    let document =
        BytesStart::new("Document").with_attributes([("xmlns", "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09")]);
    writer.write_event(Event::Start(document)).ok()?;
    write(&mut writer, &message, order.currency).ok()?;
    writer.write_event(Event::End(BytesEnd::new("Document"))).ok()?;
    Some(writer.into_inner())
}

/// What a bank's status says of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On its way, or nothing that is known here.
    Pending,
    /// Settled.
    Paid,
    /// Not paid, and will not be.
    Refused,
    /// Refused as a duplicate: then another copy of it may have been paid.
    Doubt,
}

impl Outcome {
    /// As it is in a row.
    pub fn text(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Refused => "refused",
            Self::Doubt => "doubt",
        }
    }
}

/// A status of one payout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub key: Uuid,
    /// The bank's code.
    pub status: String,
    /// Its reason's code.
    pub reason: Option<String>,
    /// What it means.
    pub outcome: Outcome,
}

/// What a status and its reason mean. Unknown codes leave a payment where it is: a person sees that it does not end.
fn outcome(status: &str, reason: Option<&str>) -> Outcome {
    match (status, reason) {
        ("ACSC" | "ACCC", _) => Outcome::Paid,
        ("RJCT" | "CANC", Some("AM05" | "DU01" | "DU02" | "DU03" | "DU04" | "DU05")) => Outcome::Doubt,
        ("RJCT" | "CANC", _) => Outcome::Refused,
        _ => Outcome::Pending,
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "CstmrPmtStsRpt")]
    report: Report,
}

#[derive(Deserialize)]
struct Report {
    #[serde(rename = "OrgnlGrpInfAndSts")]
    group: Group,
    #[serde(rename = "OrgnlPmtInfAndSts", default)]
    payments: Vec<Payment>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(rename = "OrgnlMsgId")]
    message_id: String,
    #[serde(rename = "GrpSts")]
    status: Option<String>,
    #[serde(rename = "StsRsnInf", default)]
    reasons: Vec<ReasonInfo>,
}

#[derive(Deserialize)]
struct Payment {
    #[serde(rename = "OrgnlPmtInfId")]
    payment_id: String,
    #[serde(rename = "PmtInfSts")]
    status: Option<String>,
    #[serde(rename = "StsRsnInf", default)]
    reasons: Vec<ReasonInfo>,
    #[serde(rename = "TxInfAndSts", default)]
    transfers: Vec<Transfer>,
}

#[derive(Deserialize)]
struct Transfer {
    #[serde(rename = "OrgnlEndToEndId")]
    end_to_end_id: Option<String>,
    #[serde(rename = "TxSts")]
    status: Option<String>,
    #[serde(rename = "StsRsnInf", default)]
    reasons: Vec<ReasonInfo>,
}

#[derive(Deserialize)]
struct ReasonInfo {
    #[serde(rename = "Rsn")]
    reason: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "Cd")]
    code: Option<String>,
    #[serde(rename = "Prtry")]
    own: Option<String>,
}

impl Reason {
    fn code(&self) -> Option<&str> {
        self.code.as_deref().or(self.own.as_deref())
    }
}

/// A status with its own reasons; `around` are those of every level, which may make a refusal doubtful.
fn status_of(key: Uuid, status: &str, own: &[ReasonInfo], around: &[&ReasonInfo]) -> anyhow::Result<Status> {
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    ensure!(
        (1..=4).contains(&status.len()) && status.chars().all(plain),
        "status: expected one to four capitals or digits, got {:?}",
        status.chars().take(35).collect::<String>()
    );
    let first = own.iter().filter_map(|info| info.reason.as_ref()).find_map(Reason::code);
    let around = || around.iter().filter_map(|info| info.reason.as_ref());
    let refused = outcome(status, None) == Outcome::Refused;
    // a duplicate among several reasons is what counts: the first one may have been paid. So may it have been where the bank
    // gives a reason of its own, as nobody else knows what that means
    let doubtful = around().filter_map(Reason::code).find(|code| outcome(status, Some(code)) == Outcome::Doubt);
    let doubtful = doubtful.or_else(|| around().find_map(|reason| reason.own.as_deref())).filter(|_| refused);
    let outcome = if doubtful.is_some() { Outcome::Doubt } else { outcome(status, first) };
    let reason = doubtful.or(first).map(|code| code.chars().filter(|c| !c.is_control()).take(35).collect());
    Ok(Status { key, status: status.to_owned(), reason: reason.filter(|reason: &String| !reason.is_empty()), outcome })
}

/// What a status report says of payouts of ours: of each transfer the status that stands nearest to it. An error where it is
/// no such report, and where it answers a message of ours without a status for its one transfer.
pub fn read_report(bytes: &[u8]) -> anyhow::Result<Vec<Status>> {
    let text = std::str::from_utf8(bytes)?;
    let Document { report } = quick_xml::de::from_str(text.trim_start_matches('\u{feff}'))?;
    let Some(key) = key_of(&report.group.message_id) else { return Ok(Vec::new()) };
    let (ours, others): (Vec<_>, Vec<_>) =
        report.payments.iter().partition(|payment| key_of(&payment.payment_id) == Some(key));
    let mut names_another = !others.is_empty();
    let mut found = Vec::new();
    let transfers = || ours.iter().flat_map(|payment| &payment.transfers);
    let levels = [&report.group.reasons].into_iter().chain(ours.iter().map(|payment| &payment.reasons));
    let around: Vec<&ReasonInfo> = levels.chain(transfers().map(|transfer| &transfer.reasons)).flatten().collect();
    for transfer in transfers() {
        // one payout is one transfer: what has no name is ours, and what names another is not
        if transfer.end_to_end_id.as_deref().is_some_and(|named| key_of(named) != Some(key)) {
            names_another = true;
        } else if let Some(status) = &transfer.status {
            found.push(status_of(key, status, &transfer.reasons, &around)?);
        }
    }
    if !names_another {
        let above = ours.iter().map(|payment| (&payment.status, &payment.reasons));
        for (status, reasons) in above.chain([(&report.group.status, &report.group.reasons)]) {
            if let (true, Some(status)) = (found.is_empty(), status) {
                found.push(status_of(key, status, reasons, &around)?);
            }
        }
    }
    ensure!(!found.is_empty(), "it answers our message {} and has no status of its transfer", report.group.message_id);
    Ok(found)
}
