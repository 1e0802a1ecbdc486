//! The rules of the schema of `pain.001.001.09`, as far as a credit transfer by IBAN can break them, held against the files that
//! `pain` writes: every element in its order and number, every text by its type, counts and sums.
//!
//! Written down from the message's definition on iso20022.org, apart from the code that writes. The schemas themselves are held
//! against the same files by `tests/python/test_bank_files.py`, where there are Python and the packages that ship them.

use std::{fs, path::Path, str::FromStr};

use proptest::prelude::*;
use quick_xml::{Reader, events::Event};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::pain::{
    CreditTransfer, Debtor, Outcome, Status, amount, credit_transfer, decimals, is_bic, is_name, key_of, message_id,
    read_iban, read_report,
};

/// Where this variable names a folder, what was written and the good reports are left there, as `MESSAGE-DIGEST.xml`.
const FOLDER: &str = "TIDEMARK_BANK_FILES";

const NAMESPACE: &str = "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09";
const MANY: usize = usize::MAX;

/// An element: name, attributes, text, children.
#[derive(Clone, Debug, Default)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Element>,
}

fn parse(bytes: &[u8]) -> Result<Element, String> {
    let mut reader = Reader::from_str(std::str::from_utf8(bytes).map_err(|error| error.to_string())?);
    let mut open = vec![Element::default()];
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                let mut element = Element { name, ..Element::default() };
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(|error| error.to_string())?;
                    let key = attribute.key.as_ref().to_owned();
                    element.attributes.push((key, attribute.value.to_string()));
                }
                open.push(element);
            }
            Event::End(_) => {
                let element = open.pop().ok_or("too many ends")?;
                open.last_mut().ok_or("too many ends")?.children.push(element);
            }
            Event::Text(text) => {
                open.last_mut().ok_or("text outside")?.text.push_str(&text);
            }
            Event::GeneralRef(reference) => {
                let c = match &*reference {
                    "amp" => '&',
                    "lt" => '<',
                    "gt" => '>',
                    "apos" => '\'',
                    "quot" => '"',
                    other => return Err(format!("entity {other}")),
                };
                open.last_mut().ok_or("text outside")?.text.push(c);
            }
            Event::Eof => break,
            Event::Decl(_) => {}
            other => return Err(format!("unexpected {other:?}")),
        }
    }
    open.pop().and_then(|root| root.children.into_iter().next()).ok_or_else(|| "no root".into())
}

type Children = &'static [(&'static str, &'static str, usize, usize)];

/// Complex types: a sequence of (element, type, at least, at most), or a choice of one of them.
enum Complex {
    Sequence(Children),
    Choice(Children),
}

/// Types of elements that are never written here; where one turns up, nothing is known of it.
const OTHER: &str = "other";

fn complex(name: &str) -> Option<Complex> {
    use Complex::{Choice, Sequence};
    Some(match name {
        "Document" => Sequence(&[("CstmrCdtTrfInitn", "CustomerCreditTransferInitiationV09", 1, 1)]),
        "CustomerCreditTransferInitiationV09" => Sequence(&[
            ("GrpHdr", "GroupHeader85", 1, 1),
            ("PmtInf", "PaymentInstruction30", 1, MANY),
            ("SplmtryData", OTHER, 0, MANY),
        ]),
        "GroupHeader85" => Sequence(&[
            ("MsgId", "Max35Text", 1, 1),
            ("CreDtTm", "ISODateTime", 1, 1),
            ("Authstn", OTHER, 0, 2),
            ("NbOfTxs", "Max15NumericText", 1, 1),
            ("CtrlSum", "DecimalNumber", 0, 1),
            ("InitgPty", "PartyIdentification135", 1, 1),
            ("FwdgAgt", "BranchAndFinancialInstitutionIdentification6", 0, 1),
            ("InitnSrc", OTHER, 0, 1),
        ]),
        "PaymentInstruction30" => Sequence(&[
            ("PmtInfId", "Max35Text", 1, 1),
            ("PmtMtd", "PaymentMethod3Code", 1, 1),
            ("BtchBookg", OTHER, 0, 1),
            ("NbOfTxs", "Max15NumericText", 0, 1),
            ("CtrlSum", "DecimalNumber", 0, 1),
            ("PmtTpInf", "PaymentTypeInformation26", 0, 1),
            ("ReqdExctnDt", "DateAndDateTime2Choice", 1, 1),
            ("PoolgAdjstmntDt", OTHER, 0, 1),
            ("Dbtr", "PartyIdentification135", 1, 1),
            ("DbtrAcct", "CashAccount38", 1, 1),
            ("DbtrAgt", "BranchAndFinancialInstitutionIdentification6", 1, 1),
            ("DbtrAgtAcct", "CashAccount38", 0, 1),
            ("InstrForDbtrAgt", "Max140Text", 0, 1),
            ("UltmtDbtr", "PartyIdentification135", 0, 1),
            ("ChrgBr", "ChargeBearerType1Code", 0, 1),
            ("ChrgsAcct", "CashAccount38", 0, 1),
            ("ChrgsAcctAgt", "BranchAndFinancialInstitutionIdentification6", 0, 1),
            ("CdtTrfTxInf", "CreditTransferTransaction34", 1, MANY),
        ]),
        "PaymentTypeInformation26" => Sequence(&[
            ("InstrPrty", OTHER, 0, 1),
            ("SvcLvl", "ServiceLevel8Choice", 0, MANY),
            ("LclInstrm", OTHER, 0, 1),
            ("CtgyPurp", OTHER, 0, 1),
        ]),
        "ServiceLevel8Choice" => Choice(&[("Cd", "Max4Text", 1, 1), ("Prtry", "Max35Text", 1, 1)]),
        "DateAndDateTime2Choice" => Choice(&[("Dt", "ISODate", 1, 1), ("DtTm", "ISODateTime", 1, 1)]),
        "CreditTransferTransaction34" => Sequence(&[
            ("PmtId", "PaymentIdentification6", 1, 1),
            ("PmtTpInf", "PaymentTypeInformation26", 0, 1),
            ("Amt", "AmountType4Choice", 1, 1),
            ("XchgRateInf", OTHER, 0, 1),
            ("ChrgBr", "ChargeBearerType1Code", 0, 1),
            ("ChqInstr", OTHER, 0, 1),
            ("UltmtDbtr", "PartyIdentification135", 0, 1),
            ("IntrmyAgt1", OTHER, 0, 1),
            ("IntrmyAgt1Acct", OTHER, 0, 1),
            ("IntrmyAgt2", OTHER, 0, 1),
            ("IntrmyAgt2Acct", OTHER, 0, 1),
            ("IntrmyAgt3", OTHER, 0, 1),
            ("IntrmyAgt3Acct", OTHER, 0, 1),
            ("CdtrAgt", "BranchAndFinancialInstitutionIdentification6", 0, 1),
            ("CdtrAgtAcct", "CashAccount38", 0, 1),
            ("Cdtr", "PartyIdentification135", 0, 1),
            ("CdtrAcct", "CashAccount38", 0, 1),
            ("UltmtCdtr", "PartyIdentification135", 0, 1),
            ("InstrForCdtrAgt", OTHER, 0, MANY),
            ("InstrForDbtrAgt", "Max140Text", 0, 1),
            ("Purp", OTHER, 0, 1),
            ("RgltryRptg", OTHER, 0, 10),
            ("Tax", OTHER, 0, 1),
            ("RltdRmtInf", OTHER, 0, 10),
            ("RmtInf", "RemittanceInformation16", 0, 1),
            ("SplmtryData", OTHER, 0, MANY),
        ]),
        "PaymentIdentification6" => {
            Sequence(&[("InstrId", "Max35Text", 0, 1), ("EndToEndId", "Max35Text", 1, 1), ("UETR", OTHER, 0, 1)])
        }
        "AmountType4Choice" => {
            Choice(&[("InstdAmt", "ActiveOrHistoricCurrencyAndAmount", 1, 1), ("EqvtAmt", OTHER, 1, 1)])
        }
        "PartyIdentification135" => Sequence(&[
            ("Nm", "Max140Text", 0, 1),
            ("PstlAdr", OTHER, 0, 1),
            ("Id", OTHER, 0, 1),
            ("CtryOfRes", OTHER, 0, 1),
            ("CtctDtls", OTHER, 0, 1),
        ]),
        "CashAccount38" => Sequence(&[
            ("Id", "AccountIdentification4Choice", 1, 1),
            ("Tp", OTHER, 0, 1),
            ("Ccy", "ActiveOrHistoricCurrencyCode", 0, 1),
            ("Nm", "Max70Text", 0, 1),
            ("Prxy", OTHER, 0, 1),
        ]),
        "AccountIdentification4Choice" => Choice(&[("IBAN", "IBAN2007Identifier", 1, 1), ("Othr", OTHER, 1, 1)]),
        "BranchAndFinancialInstitutionIdentification6" => {
            Sequence(&[("FinInstnId", "FinancialInstitutionIdentification18", 1, 1), ("BrnchId", OTHER, 0, 1)])
        }
        "FinancialInstitutionIdentification18" => Sequence(&[
            ("BICFI", "BICFIDec2014Identifier", 0, 1),
            ("ClrSysMmbId", OTHER, 0, 1),
            ("LEI", OTHER, 0, 1),
            ("Nm", "Max140Text", 0, 1),
            ("PstlAdr", OTHER, 0, 1),
            ("Othr", "GenericFinancialIdentification1", 0, 1),
        ]),
        "GenericFinancialIdentification1" => {
            Sequence(&[("Id", "Max35Text", 1, 1), ("SchmeNm", OTHER, 0, 1), ("Issr", "Max35Text", 0, 1)])
        }
        "RemittanceInformation16" => Sequence(&[("Ustrd", "Max140Text", 0, MANY), ("Strd", OTHER, 0, MANY)]),
        _ => return None,
    })
}

fn digits_of(text: &str) -> Option<(usize, usize)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let plain = !whole.is_empty() && (whole.to_owned() + part).bytes().all(|byte| byte.is_ascii_digit());
    (plain && !text.ends_with('.')).then(|| (whole.trim_start_matches('0').len() + part.len(), part.len()))
}

/// Letters by kind: `A` a capital, `9` a digit, `a` any letter or digit, `X` a capital or digit.
fn like(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.chars().zip(pattern.chars()).all(|(c, kind)| match kind {
            'A' => c.is_ascii_uppercase(),
            '9' => c.is_ascii_digit(),
            'a' => c.is_ascii_alphanumeric(),
            'X' => c.is_ascii_uppercase() || c.is_ascii_digit(),
            other => c == other,
        })
}

/// Whether a text is of a simple type.
fn is_simple(kind: &str, text: &str) -> bool {
    let chars = text.chars().count();
    match kind {
        "Max4Text" => (1..=4).contains(&chars),
        "Max35Text" => (1..=35).contains(&chars),
        "Max70Text" => (1..=70).contains(&chars),
        "Max140Text" => (1..=140).contains(&chars),
        "Max15NumericText" => (1..=15).contains(&chars) && text.bytes().all(|byte| byte.is_ascii_digit()),
        "DecimalNumber" => digits_of(text).is_some_and(|(digits, part)| digits <= 18 && part <= 17),
        "ActiveOrHistoricCurrencyAndAmount" => digits_of(text).is_some_and(|(digits, part)| digits <= 18 && part <= 5),
        "ActiveOrHistoricCurrencyCode" => like(text, "AAA"),
        "PaymentMethod3Code" => ["CHK", "TRF", "TRA"].contains(&text),
        "ChargeBearerType1Code" => ["DEBT", "CRED", "SHAR", "SLEV"].contains(&text),
        "ISODate" => like(text, "9999-99-99"),
        "ISODateTime" => like(text, "9999-99-99T99:99:99Z"),
        "BICFIDec2014Identifier" => like(text, "XXXXAAXX") || like(text, "XXXXAAXXXXX"),
        "IBAN2007Identifier" => {
            (5..=34).contains(&chars) && like(&text[..4], "AA99") && like(&text[4..], &"a".repeat(chars - 4))
        }
        other => panic!("no such type: {other}"),
    }
}

fn check(element: &Element, kind: &str) -> Result<(), String> {
    let here = |what: String| Err(format!("{}: {what}", element.name));
    let Some(complex) = complex(kind) else {
        if kind == OTHER {
            return here("is not written here".into());
        }
        if !element.children.is_empty() || !is_simple(kind, &element.text) {
            return here(format!("{:?} is no {kind}", element.text));
        }
        return match (kind, element.attributes.as_slice()) {
            ("ActiveOrHistoricCurrencyAndAmount", [(name, code)])
                if name == "Ccy" && is_simple("ActiveOrHistoricCurrencyCode", code) =>
            {
                Ok(())
            }
            ("ActiveOrHistoricCurrencyAndAmount", _) => here("without its currency".into()),
            (_, []) => Ok(()),
            _ => here("with an attribute".into()),
        };
    };
    if !element.text.trim().is_empty() {
        return here("has text".into());
    }
    let mut children = element.children.iter().peekable();
    match complex {
        Complex::Sequence(sequence) => {
            for (name, kind, least, most) in sequence {
                let mut count = 0usize;
                while let Some(child) = children.next_if(|child| child.name == *name) {
                    check(child, kind)?;
                    count += 1;
                }
                if count < *least || count > *most {
                    return here(format!("{count} of {name}"));
                }
            }
        }
        Complex::Choice(choice) => {
            let child = children.next().ok_or_else(|| format!("{}: empty", element.name))?;
            let Some((_, kind, ..)) = choice.iter().find(|(name, ..)| child.name == *name) else {
                return here(format!("{} is none of its choices", child.name));
            };
            check(child, kind)?;
        }
    }
    match children.next() {
        Some(child) => here(format!("{} does not belong here", child.name)),
        None => Ok(()),
    }
}

impl Element {
    fn all<'a>(&'a self, name: &str, into: &mut Vec<&'a Element>) {
        for child in &self.children {
            if child.name == name {
                into.push(child);
            }
            child.all(name, into);
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.all(name, &mut found);
        found.iter().map(|element| element.text.clone()).collect()
    }
}

/// The schema's rules, and those that stand beside it: what is counted and summed is what is there.
fn validate(bytes: &[u8]) -> Result<Element, String> {
    let root = parse(bytes)?;
    if root.name != "Document" || root.attributes != [("xmlns".to_owned(), NAMESPACE.to_owned())] {
        return Err("another document".into());
    }
    check(&root, "Document")?;
    let transfers = root.texts("EndToEndId").len().to_string();
    if root.texts("NbOfTxs").iter().any(|count| *count != transfers) {
        return Err("NbOfTxs is not the number of transfers".into());
    }
    // one transfer: the sum is its amount, digit for digit
    if root.texts("CtrlSum").iter().any(|sum| vec![sum.clone()] != root.texts("InstdAmt")) {
        return Err("CtrlSum is not the sum of the amounts".into());
    }
    let mut ids = root.texts("EndToEndId");
    ids.sort();
    ids.dedup();
    if ids.len().to_string() != transfers {
        return Err("an EndToEndId comes twice".into());
    }
    Ok(root)
}

const KEY: Uuid = Uuid::from_u128(0x7c9e_6679_7425_40de_944b_e07f_c1f9_0ae7);
const ASKED_AT: i64 = 1_795_305_600;

fn debtor() -> Debtor {
    Debtor { name: "Numo Ltd.".into(), iban: "DE89370400440532013000".into(), bic: None }
}

/// Leaves a file for who holds it against the schema.
fn leave(message: &str, bytes: &[u8]) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let name = format!("{message}-{}.xml", &hex::encode(Sha256::digest(bytes))[..16]);
        fs::write(Path::new(&folder).join(name), bytes).unwrap();
    }
}

/// The file for an order.
fn written(order: &CreditTransfer<'_>) -> Option<Vec<u8>> {
    let bytes = credit_transfer(order)?;
    leave("pain.001.001.09", &bytes);
    Some(bytes)
}

fn file(debtor: &Debtor, currency: &str, minor: u128, name: &str, bic: Option<&str>) -> Option<Vec<u8>> {
    written(&CreditTransfer {
        key: KEY,
        asked_at: ASKED_AT,
        currency,
        minor,
        debtor,
        name,
        iban: "GB29NWBK60161331926819",
        bic,
    })
}

#[test]
fn a_file_keeps_the_rules_of_its_schema_and_says_what_was_ordered() {
    let debtor = Debtor { bic: Some("COBADEFFXXX".into()), ..debtor() };
    let bytes = file(&debtor, "EUR", 123_456, "Mary-Ann O'Neil", Some("NWBKGB2L")).unwrap();
    let root = validate(&bytes).unwrap();
    let id = "TM7c9e6679742540de944be07fc1f90ae7";
    for name in ["MsgId", "PmtInfId", "InstrId", "EndToEndId"] {
        assert_eq!(root.texts(name), [id], "{name}");
    }
    assert_eq!(root.texts("InstdAmt"), ["1234.56"]);
    assert_eq!(root.texts("IBAN"), ["DE89370400440532013000", "GB29NWBK60161331926819"]);
    assert_eq!(root.texts("BICFI"), ["COBADEFFXXX", "NWBKGB2L"]);
    assert_eq!(root.texts("Nm"), ["Numo Ltd.", "Numo Ltd.", "Mary-Ann O'Neil"]);
    assert_eq!((root.texts("Cd"), root.texts("ChrgBr")), (vec!["SEPA".to_owned()], vec!["SLEV".to_owned()]));
    assert_eq!(root.texts("CreDtTm"), ["2026-11-22T00:00:00Z"]);
    assert_eq!(root.texts("Dt"), ["2026-11-22"]);
    assert_eq!(Some(bytes), file(&debtor, "EUR", 123_456, "Mary-Ann O'Neil", Some("NWBKGB2L")), "the same bytes again");
    let won = validate(&file(&self::debtor(), "KRW", 300, "A", None).unwrap()).unwrap();
    assert_eq!((won.texts("InstdAmt"), won.texts("ChrgBr")), (vec!["300".to_owned()], vec!["SHAR".to_owned()]));
    assert_eq!(won.texts("Cd"), Vec::<String>::new(), "SEPA is for euros");
}

#[test]
fn the_rules_find_what_is_wrong() {
    let good = String::from_utf8(file(&debtor(), "EUR", 123_456, "Kim Minji", None).unwrap()).unwrap();
    validate(good.as_bytes()).unwrap();
    let long = "9".repeat(36);
    for (from, to) in [
        ("pain.001.001.09", "pain.001.001.03"),
        ("<MsgId>TM7c9e6679742540de944be07fc1f90ae7", &format!("<MsgId>{long}")),
        ("<MsgId>TM7c9e6679742540de944be07fc1f90ae7", "<MsgId>"),
        ("<PmtMtd>TRF", "<PmtMtd>XXX"),
        ("<NbOfTxs>1", "<NbOfTxs>2"),
        ("<NbOfTxs>1", "<NbOfTxs>one"),
        ("<CtrlSum>1234.56", "<CtrlSum>1234.57"),
        ("\">1234.56", "\">1234.567890"),
        ("\">1234.56", "\">12345678901234567.89"),
        ("\">1234.56", "\">1,234.56"),
        ("\">1234.56", "\">-1234.56"),
        (" Ccy=\"EUR\"", ""),
        ("Ccy=\"EUR\"", "Ccy=\"eur\""),
        ("<IBAN>GB29", "<IBAN>gb29"),
        ("<IBAN>GB29NWBK60161331926819", "<IBAN>GB29 NWBK 6016 1331 9268 19"),
        ("2026-11-22T00:00:00Z", "2026-11-22"),
        ("<Dt>2026-11-22", "<Dt>22.11.2026"),
        ("<ChrgBr>SLEV", "<ChrgBr>NONE"),
        ("<Cdtr>", "<Creditor>"),
        ("<Nm>Kim Minji</Nm>", &format!("<Nm>{}</Nm>", "x".repeat(141))),
        ("<PmtInfId>", "<Extra>x</Extra><PmtInfId>"),
        ("<ChrgBr>SLEV</ChrgBr>", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        // the last one is allowed: who bears the charges may be left out
        assert_eq!(validate(bad.as_bytes()).is_err(), !from.starts_with("<ChrgBr>SLEV</"), "{from} -> {to}");
    }
    let (header, payment) = (good.find("<Dbtr>").unwrap(), good.find("<DbtrAcct>").unwrap());
    let order = format!("{}{}", &good[..header], &good[payment..]);
    assert!(validate(order.as_bytes()).is_err(), "without a debtor");
    let swapped = good.replacen("<InstrId>", "<X>", 1).replacen("</InstrId>", "</X>", 1);
    assert!(validate(swapped.as_bytes()).is_err());
}

#[test]
fn an_amount_has_the_digits_of_its_currency_and_no_more_than_the_schema() {
    assert_eq!(amount("EUR", 5).as_deref(), Some("0.05"));
    assert_eq!(amount("EUR", 100).as_deref(), Some("1.00"));
    assert_eq!(amount("KRW", 5).as_deref(), Some("5"));
    assert_eq!(amount("BHD", 1_234).as_deref(), Some("1.234"));
    assert_eq!(amount("EUR", 999_999_999_999_999_999).as_deref(), Some("9999999999999999.99"));
    for (currency, minor) in
        [("EUR", 0), ("EUR", 1_000_000_000_000_000_000), ("XAU", 1), ("EUX", 1), ("EUR", u128::MAX)]
    {
        assert_eq!(amount(currency, minor), None, "{currency} {minor}");
    }
}

/// Every code that a currency may be configured by.
fn currencies() -> Vec<String> {
    let letters = || (b'A'..=b'Z').map(char::from);
    let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c].iter().collect())));
    codes.filter(|code: &String| decimals(code).is_some()).collect()
}

#[test]
fn the_least_and_the_largest_amount_of_every_currency_can_be_said() {
    let currencies = currencies();
    assert!(currencies.len() > 150, "{currencies:?}");
    for code in &currencies {
        for minor in [1, 10u128.pow(18) - 1] {
            let root = validate(&file(&debtor(), code, minor, "Kim Minji", None).unwrap()).unwrap();
            assert_eq!(root.texts("InstdAmt").concat().replace('.', "").trim_start_matches('0'), minor.to_string());
        }
    }
}

/// Examples of the IBAN registry, from the shortest to the longest.
const IBANS: [&str; 8] = [
    "NO9386011117947",
    "DE89370400440532013000",
    "GB29NWBK60161331926819",
    "FR1420041010050500013M02606",
    "MT84MALT011000012345MTLCAST001S",
    "SC18SSCB11010000000000001497USD",
    "LC55HEMM000100010012001200023015",
    "RU0204452560040702810412345678901",
];

prop_compose! {
    fn bic()(bic in "[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?") -> String {
        assert!(is_bic(&bic), "{bic}");
        bic
    }
}

/// A name that a request may give.
fn name() -> impl Strategy<Value = String> {
    let names = prop_oneof!["[a-zA-Z0-9?:().,'+/ -]{1,70}", "[a-zA-Z0-9?:().,'+-]{70}"];
    names.prop_filter("the door takes it", |name| is_name(name))
}

proptest! {
    #[test]
    fn every_order_that_may_be_given_becomes_a_file_of_the_schema(
        key in any::<u128>(), asked_at in 0i64..253_402_300_800, currency in proptest::sample::select(currencies()),
        minor in prop_oneof![1u128..1_000_000, 1u128..10u128.pow(18)], names in (name(), name()),
        ibans in (proptest::sample::select(&IBANS[..]), proptest::sample::select(&IBANS[..])),
        bics in (proptest::option::of(bic()), proptest::option::of(bic())),
    ) {
        prop_assert_eq!(read_iban(ibans.0), Some(ibans.0.to_owned()));
        let debtor = Debtor { name: names.0, iban: ibans.0.into(), bic: bics.0 };
        let key = Uuid::from_u128(key);
        let (currency, iban) = (currency.as_str(), ibans.1);
        let order = CreditTransfer { key, asked_at, currency, minor, debtor: &debtor, name: &names.1, iban, bic: bics.1.as_deref() };
        let root = validate(&written(&order).unwrap()).unwrap();
        prop_assert_eq!(root.texts("Nm"), [debtor.name.clone(), debtor.name.clone(), names.1.clone()]);
        prop_assert_eq!(root.texts("IBAN"), [ibans.0, ibans.1]);
        let bics: Vec<String> = [&debtor.bic, &bics.1].into_iter().flatten().cloned().collect();
        prop_assert_eq!(root.texts("BICFI"), bics);
    }

    // the door lets no such name in; a file with one is still a file
    #[test]
    fn a_name_in_any_script_stays_what_it_is(name in "\\PC{1,140}") {
        let root = validate(&file(&debtor(), "KRW", 1, &name, None).unwrap()).unwrap();
        let names = root.texts("Nm");
        prop_assert_eq!(names.last(), Some(&name));
    }

    #[test]
    fn whatever_a_name_is_the_file_is_well_formed_and_says_it(name in "[a-zA-Z0-9/?:().,'+ <>&\"-]{1,70}", minor in 1u128..10u128.pow(18)) {
        let bytes = file(&debtor(), "EUR", minor, &name, None).unwrap();
        let root = validate(&bytes).unwrap();
        let names = root.texts("Nm");
        prop_assert_eq!(names.last(), Some(&name));
        let said = root.texts("InstdAmt").concat();
        prop_assert_eq!(u128::from_str(&said.replace('.', "")), Ok(minor));
    }

    #[test]
    fn an_id_leads_back_to_its_payout(bits in any::<u128>(), other in "[A-Za-z0-9]{0,40}") {
        let key = Uuid::from_u128(bits);
        prop_assert_eq!(key_of(&message_id(key)), Some(key));
        prop_assert!(is_simple("Max35Text", &message_id(key)));
        if let Some(key) = key_of(&other) {
            prop_assert_eq!(message_id(key), other);
        }
    }

    #[test]
    fn a_report_of_any_bytes_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _read = read_report(&bytes);
    }
}

/// Of the report, those that banks send: 10 is the answer to `pain.001.001.09`.
const VERSIONS: [&str; 5] = ["03", "10", "12", "14", "15"];

/// A report as banks send it.
fn report(group: &str, payments: &str) -> Vec<u8> {
    report_of("10", group, payments)
}

fn report_of(version: &str, group: &str, payments: &str) -> Vec<u8> {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.002.001.{version}"><CstmrPmtStsRpt>
 <GrpHdr><MsgId>BANK-1</MsgId><CreDtTm>2026-11-22T09:00:00</CreDtTm></GrpHdr>
 <OrgnlGrpInfAndSts><OrgnlMsgId>{}</OrgnlMsgId><OrgnlMsgNmId>pain.001.001.09</OrgnlMsgNmId>{group}</OrgnlGrpInfAndSts>
 {payments}
</CstmrPmtStsRpt></Document>"#,
        message_id(KEY)
    )
    .into_bytes()
}

fn payment(status: &str, transfers: &str) -> String {
    let id = message_id(KEY);
    format!("<OrgnlPmtInfAndSts><OrgnlPmtInfId>{id}</OrgnlPmtInfId>{status}{transfers}</OrgnlPmtInfAndSts>")
}

fn transfer(id: &str, status: &str, reasons: &[&str]) -> String {
    let reasons: Vec<String> = reasons
        .iter()
        .map(|code| format!("<StsRsnInf><Rsn><Cd>{code}</Cd></Rsn><AddtlInf>x</AddtlInf></StsRsnInf>"))
        .collect();
    let reasons = reasons.concat();
    format!("<TxInfAndSts><OrgnlEndToEndId>{id}</OrgnlEndToEndId><TxSts>{status}</TxSts>{reasons}</TxInfAndSts>")
}

#[test]
fn a_report_is_read_at_the_level_that_stands_nearest_to_the_transfer() {
    let id = message_id(KEY);
    let read = |group: &str, payments: &str| {
        let said = read_report(&report(group, payments)).unwrap();
        for version in VERSIONS {
            let bytes = report_of(version, group, payments);
            assert_eq!(read_report(&bytes).unwrap(), said, "version {version}");
            leave(&format!("pain.002.001.{version}"), &bytes);
        }
        said
    };
    let one = |status: &str, reason: Option<&str>, outcome| {
        vec![Status { key: KEY, status: status.into(), reason: reason.map(Into::into), outcome }]
    };
    let paid = payment("<PmtInfSts>PART</PmtInfSts>", &transfer(&id, "ACSC", &[]));
    assert_eq!(read("<GrpSts>PART</GrpSts>", &paid), one("ACSC", None, Outcome::Paid));
    let refused = payment("", &transfer(&id, "RJCT", &["AC04"]));
    assert_eq!(read("<GrpSts>ACCP</GrpSts>", &refused), one("RJCT", Some("AC04"), Outcome::Refused));
    let twice = payment("", &transfer(&id, "RJCT", &["NARR", "DU01"]));
    assert_eq!(read("", &twice), one("RJCT", Some("DU01"), Outcome::Doubt));
    assert_eq!(read("", &payment("<PmtInfSts>ACSP</PmtInfSts>", "")), one("ACSP", None, Outcome::Pending));
    assert_eq!(read("<GrpSts>RJCT</GrpSts>", ""), one("RJCT", None, Outcome::Refused));
    let duplicate = "<GrpSts>RJCT</GrpSts><StsRsnInf><Rsn><Cd>AM05</Cd></Rsn></StsRsnInf>";
    assert_eq!(read(duplicate, ""), one("RJCT", Some("AM05"), Outcome::Doubt));
    // a bank that names no transfer, and whose status stands above
    let nameless = payment("", "<TxInfAndSts><StsId>1</StsId></TxInfAndSts>");
    assert_eq!(read("<GrpSts>RJCT</GrpSts>", &nameless), one("RJCT", None, Outcome::Refused));
    assert_eq!(read("<GrpSts>RJCT</GrpSts>", &payment("", "")), one("RJCT", None, Outcome::Refused));
    // a bank's own code may mean a duplicate
    let own = transfer(&id, "RJCT", &["X"]).replace("<Cd>X</Cd>", "<Prtry>X17</Prtry>");
    assert_eq!(read("", &payment("", &own)), one("RJCT", Some("X17"), Outcome::Doubt));
    // its reasons stand elsewhere than the status that counts
    let nameless =
        |inside: &str| payment("<PmtInfSts>RJCT</PmtInfSts>", &format!("<TxInfAndSts>{inside}</TxInfAndSts>"));
    let without = nameless("<StsRsnInf><Rsn><Cd>AM05</Cd></Rsn></StsRsnInf>");
    assert_eq!(read("", &without), one("RJCT", Some("AM05"), Outcome::Doubt));
    let beside = nameless(
        "<TxSts>RJCT</TxSts><StsRsnInf><Rsn><Cd>NARR</Cd></Rsn></StsRsnInf><StsRsnInf><Rsn><Prtry>DUPL</Prtry></Rsn></StsRsnInf>",
    );
    assert_eq!(read("", &beside), one("RJCT", Some("DUPL"), Outcome::Doubt));
    assert_eq!(read("<GrpSts>PART</GrpSts>", &nameless("<TxSts>ACSC</TxSts>")), one("ACSC", None, Outcome::Paid));
    let unreadable = payment("<PmtInfSts>RJCT</PmtInfSts>", &transfer(&id, "paid!", &[]));
    assert!(read_report(&report("", &unreadable)).is_err());
    // everything that a bank may add between what is read
    let full = format!(
        "<OrgnlPmtInfAndSts><OrgnlPmtInfId>{id}</OrgnlPmtInfId><OrgnlNbOfTxs>1</OrgnlNbOfTxs><OrgnlCtrlSum>2.10</OrgnlCtrlSum>\
         <PmtInfSts>PART</PmtInfSts><StsRsnInf><AddtlInf>see below</AddtlInf></StsRsnInf>\
         <NbOfTxsPerSts><DtldNbOfTxs>1</DtldNbOfTxs><DtldSts>RJCT</DtldSts><DtldCtrlSum>2.10</DtldCtrlSum></NbOfTxsPerSts>\
         <TxInfAndSts><StsId>7</StsId><OrgnlInstrId>{id}</OrgnlInstrId><OrgnlEndToEndId>{id}</OrgnlEndToEndId><TxSts>RJCT</TxSts>\
         <StsRsnInf><Orgtr><Nm>B &amp; C</Nm></Orgtr><Rsn><Cd>AC04</Cd></Rsn><AddtlInf>closed</AddtlInf><AddtlInf>x</AddtlInf></StsRsnInf>\
         <AccptncDtTm>2026-11-22T08:59:59.123+01:00</AccptncDtTm><AcctSvcrRef>R-1</AcctSvcrRef><ClrSysRef>C-1</ClrSysRef>\
         <OrgnlTxRef><Amt><InstdAmt Ccy=\"EUR\">2.10</InstdAmt></Amt>\
         <CdtrAcct><Id><IBAN>GB29NWBK60161331926819</IBAN></Id></CdtrAcct></OrgnlTxRef></TxInfAndSts></OrgnlPmtInfAndSts>"
    );
    let above = "<OrgnlCreDtTm>2026-11-22T00:00:00Z</OrgnlCreDtTm><OrgnlNbOfTxs>1</OrgnlNbOfTxs><OrgnlCtrlSum>2.10</OrgnlCtrlSum>\
                 <GrpSts>PART</GrpSts>";
    assert_eq!(read(above, &full), one("RJCT", Some("AC04"), Outcome::Refused));
    // a file was refused as a whole, and a transfer in it is named: what names the transfer counts
    assert_eq!(read("<GrpSts>RJCT</GrpSts>", &paid), one("ACSC", None, Outcome::Paid));
}

#[test]
fn a_report_of_another_transfer_or_of_nothing_moves_nothing() {
    let other = message_id(Uuid::from_u128(1));
    let elsewhere = payment("<PmtInfSts>ACSC</PmtInfSts>", &transfer(&other, "ACSC", &[]));
    assert!(read_report(&report("<GrpSts>ACSC</GrpSts>", &elsewhere)).is_err(), "it contradicts itself");
    let text = String::from_utf8(report("<GrpSts>ACSC</GrpSts>", "")).unwrap();
    assert_eq!(read_report(text.replace(&message_id(KEY), "SALARIES-11").as_bytes()).unwrap(), []);
    assert!(read_report(text.replace("ACSC", "paid!").as_bytes()).is_err(), "ours, and without a status");
    for broken in ["", "<Document/>", "<Document><CstmrPmtStsRpt/></Document>", "{}", &text[..text.len() / 2]] {
        assert!(read_report(broken.as_bytes()).is_err(), "{broken}");
    }
    let bomb = text.replace("<Document", "<!DOCTYPE d [<!ENTITY a \"aaaa\">]><Document").replace("BANK-1", "&a;&a;");
    let read = read_report(bomb.as_bytes());
    assert!(read.is_err() || read.is_ok_and(|read| read.len() == 1), "entities of a report are not resolved");
}
