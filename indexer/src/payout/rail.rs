//! Payout rails: who turns points into cash, asked under one key for one payout, however often.

use std::{future::Future, time::Duration};

use reqwest::{Client, StatusCode, Url, header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Characters of a partner's text that are kept.
const DETAIL_CHARS_MAX: usize = 200;

/// One payment that a rail is asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// The payout; the rail pays one key once.
    pub key: Uuid,
    /// Whole points.
    pub points: u64,
    /// What they are worth by the payout's rate; none where the rail pays points.
    pub money: Option<Money>,
    /// The recipient as the rail knows it. Personal: not for logs.
    pub destination: String,
    /// The recipient's name, for a bank.
    pub name: Option<String>,
    /// The recipient's bank.
    pub bic: Option<String>,
    /// When the payout was asked for, Unix seconds.
    pub asked_at: i64,
}

/// An amount of a currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Money {
    /// An ISO 4217 code, or a token's address.
    pub currency: String,
    /// Minor units: cents, won, a token's base units.
    pub minor: u128,
}

/// What a rail said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has paid this key, now or before.
    Paid(String),
    /// It has not paid, and may do so later.
    Later(String),
    /// It has not paid and will not.
    Refused(String),
    /// Nobody can tell whether it has paid: ask again under the same key.
    Unknown(String),
    /// It has taken this key on, will pay it or not, and says which when it is asked again: so long from now, unless it
    /// hears of it before.
    Accepted(String, Duration),
    /// It knows this key, has not paid it and never will: whatever earlier attempts left open.
    Never(String),
    /// Only a person can tell, and asking again is no help.
    Doubt(String),
}

/// A shorter recipient says nothing by itself, and would be found in any text.
const TELLING_CHARS: usize = 4;

impl Answer {
    /// The same without the recipient, which a partner's text may repeat: what it says is kept and logged.
    pub fn without(self, destination: &str) -> Self {
        let clean = |text: String| match destination.len() >= TELLING_CHARS {
            true => text.replace(destination, "…"),
            false => text,
        };
        match self {
            Self::Paid(text) => Self::Paid(clean(text)),
            Self::Later(text) => Self::Later(clean(text)),
            Self::Refused(text) => Self::Refused(clean(text)),
            Self::Unknown(text) => Self::Unknown(clean(text)),
            Self::Accepted(text, again) => Self::Accepted(clean(text), again),
            Self::Never(text) => Self::Never(clean(text)),
            Self::Doubt(text) => Self::Doubt(clean(text)),
        }
    }
}

/// Turns points into cash.
///
/// A rail that pays at once answers `Paid`. One that takes longer (a bank, a chain) answers `Accepted`, keeps in rows of its
/// own what it has begun, and is asked again until it knows.
pub trait PayoutRail: Send + Sync {
    /// Asks for a payment, or what became of it. Asking twice with one key must not pay twice, wherever the process ended
    /// between the two.
    fn pay(&self, order: &Order) -> impl Future<Output = Answer> + Send;
}

/// A partner over HTTP with the promotion grants of apps in Toss.
#[derive(Clone)]
pub struct HttpRail {
    client: Client,
    grant_url: Url,
    token: Option<String>,
    promotion_code: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Grant<'a> {
    promotion_code: &'a str,
    amount: u64,
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GrantAnswer {
    key: Option<String>,
    error_code: Option<serde_json::Value>,
    message: Option<String>,
}

impl HttpRail {
    /// Posts to `{url}/promotions/grant`.
    pub fn new(url: &Url, token: Option<String>, promotion_code: String, timeout: Duration) -> anyhow::Result<Self> {
        let mut grant_url = url.clone();
        grant_url
            .path_segments_mut()
            .map_err(|()| anyhow::anyhow!("the rail's URL can't have a path"))?
            .pop_if_empty()
            .extend(["promotions", "grant"]);
        // a redirected POST could be answered by somebody else
        let client = Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { client, grant_url, token, promotion_code })
    }

    async fn ask(&self, order: &Order) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let amount = match &order.money {
            None => order.points,
            // below 2^64 by the request's check
            Some(money) => u64::try_from(money.minor).unwrap_or(u64::MAX),
        };
        let grant = Grant { promotion_code: &self.promotion_code, amount, key: order.key.to_string() };
        let mut request = self.client.post(self.grant_url.clone()).json(&grant);
        // the recipient goes where apps in Toss expect it: in a header, not in the body
        request = request.header("x-toss-user-key", &order.destination);
        request = request.header("idempotency-key", order.key.to_string()).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok((response.status(), body))
    }
}

impl PayoutRail for HttpRail {
    async fn pay(&self, order: &Order) -> Answer {
        match self.ask(order).await {
            Ok((status, body)) => read_answer(order.key, status, &body),
            // nothing was sent
            Err(error) if error.is_connect() => Answer::Later("the partner can't be reached".into()),
            Err(error) if error.is_timeout() => Answer::Unknown("the partner did not answer in time".into()),
            Err(error) => Answer::Unknown(format!("the partner's answer broke off: {}", error.without_url())),
        }
    }
}

/// What an answer of the partner says about a key.
pub fn read_answer(key: Uuid, status: StatusCode, body: &[u8]) -> Answer {
    let Ok(answer) = serde_json::from_slice::<GrantAnswer>(body) else {
        return Answer::Unknown(format!("HTTP {} without an answer that can be read", status.as_u16()));
    };
    let code = match answer.error_code {
        Some(serde_json::Value::String(code)) => Some(code),
        Some(serde_json::Value::Number(code)) => Some(code.to_string()),
        Some(serde_json::Value::Null) | None => None,
        Some(_) => Some("?".into()),
    };
    if let Some(code) = code {
        return read_code(&code, answer.message.as_deref().unwrap_or(""));
    }
    match answer.key {
        Some(paid) if status.is_success() && paid == key.to_string() => Answer::Paid("paid".into()),
        Some(_) if status.is_success() => Answer::Unknown("the partner answered for another key".into()),
        _ => Answer::Unknown(format!("HTTP {} with neither a key nor an error code", status.as_u16())),
    }
}

/// The partner's error codes as answers; what is not known here is unknown.
fn read_code(code: &str, message: &str) -> Answer {
    let message: String = message.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect();
    let say = |meaning: &str| format!("{code}: {meaning}{}{message}", if message.is_empty() { "" } else { ": " });
    match code {
        "4113" => Answer::Paid(say("paid before")),
        // these promotions do not come back under their code
        "4100" => Answer::Refused(say("there is no such promotion")),
        "4104" => Answer::Refused(say("the promotion was stopped")),
        "4105" => Answer::Refused(say("the promotion has ended")),
        "4114" => Answer::Refused(say("the amount is over the cap of one grant")),
        // these may still start to pay
        "4108" => Answer::Later(say("the promotion is not approved yet")),
        "4109" => Answer::Later(say("the promotion does not run now")),
        "4112" => Answer::Later(say("the promotion's money is short")),
        "4110" => Answer::Unknown(say("the partner can neither confirm nor take back the payment")),
        _ => Answer::Unknown(say("a code that is not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        read_answer(Uuid::nil(), StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn each_code_of_the_partner_has_its_meaning() {
        let of = |code: &str| answer(200, &format!(r#"{{"errorCode":"{code}","message":"m"}}"#));
        assert!(matches!(of("4113"), Answer::Paid(_)));
        for code in ["4100", "4104", "4105", "4114"] {
            assert!(matches!(of(code), Answer::Refused(_)), "{code}");
        }
        for code in ["4108", "4109", "4112"] {
            assert!(matches!(of(code), Answer::Later(_)), "{code}");
        }
        for code in ["4110", "4999", ""] {
            assert!(matches!(of(code), Answer::Unknown(_)), "{code}");
        }
        assert!(matches!(answer(400, r#"{"errorCode":4104}"#), Answer::Refused(_)));
    }

    #[test]
    fn what_is_kept_of_an_answer_does_not_name_the_recipient() {
        let answer = Answer::Refused("4114: user-7f3a is over the cap".into());
        assert_eq!(answer.without("user-7f3a"), Answer::Refused("4114: … is over the cap".into()));
        assert_eq!(Answer::Paid("paid".into()).without("p"), Answer::Paid("paid".into()));
    }

    #[test]
    fn only_a_success_that_names_the_key_is_a_payment() {
        let key = Uuid::nil();
        assert_eq!(answer(200, &format!(r#"{{"key":"{key}"}}"#)), Answer::Paid("paid".into()));
        for (status, body) in [
            (500, format!(r#"{{"key":"{key}"}}"#)),
            (200, r#"{"key":"other"}"#.to_owned()),
            (200, "{}".to_owned()),
            (200, "<html>".to_owned()),
            (401, String::new()),
            (503, String::new()),
        ] {
            assert!(matches!(answer(status, &body), Answer::Unknown(_)), "{status} {body}");
        }
    }
}
