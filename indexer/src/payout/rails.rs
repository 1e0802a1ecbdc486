//! The rails that this indexer has, by name; a payout keeps to the one that it was asked for with.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Payouts,
    bank::BankRail,
    pay,
    rail::HttpRail,
    token::TokenRail,
    worker::{Due, Step},
};

/// Who pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RailName {
    /// A partner over HTTP, who pays points.
    Partner,
    /// A bank, by files of ISO 20022.
    Bank,
    /// A token's contract on the chain.
    Token,
}

impl RailName {
    /// As it is in a row.
    pub fn text(self) -> &'static str {
        match self {
            Self::Partner => "partner",
            Self::Bank => "bank",
            Self::Token => "token",
        }
    }
}

impl FromStr for RailName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Partner, Self::Bank, Self::Token];
        let found = all.into_iter().find(|name| name.text() == text);
        found.ok_or_else(|| anyhow::anyhow!("expected the name of a rail, got {text:?}"))
    }
}

/// Rails that are switched on.
pub(super) struct Rails {
    partner: Option<HttpRail>,
    bank: Option<BankRail>,
    token: Option<TokenRail>,
}

impl Rails {
    /// By configuration.
    pub async fn open(payouts: &Payouts) -> anyhow::Result<Self> {
        let config = &payouts.inner.config;
        let partner = config.partner.as_ref().map(|partner| {
            HttpRail::new(&partner.url, partner.token.clone(), partner.promotion_code.clone(), partner.timeout)
        });
        let bank = match &config.bank {
            Some(bank) => Some(BankRail::open(payouts.inner.pool.clone(), bank.clone()).await?),
            None => None,
        };
        Ok(Self {
            partner: partner.transpose()?,
            bank,
            token: config.token.as_ref().map(|token| TokenRail::new(payouts, token.clone())),
        })
    }

    /// Names of those that are on.
    pub fn names(&self) -> Vec<&'static str> {
        let on = [
            (RailName::Partner, self.partner.is_some()),
            (RailName::Bank, self.bank.is_some()),
            (RailName::Token, self.token.is_some()),
        ];
        on.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.text()).collect()
    }

    /// Takes in what rails say by themselves.
    pub async fn listen(&self) {
        if let Some(bank) = &self.bank
            && let Err(error) = bank.read_reports().await
        {
            tracing::warn!(cause = format!("{error:#}"), "the bank's reports can't be read; trying again");
        }
    }

    /// Asks the rail of a payout.
    pub async fn pay(&self, payouts: &Payouts, due: &Due) -> anyhow::Result<Option<Step>> {
        match (due.rail, &self.partner, &self.bank, &self.token) {
            (RailName::Partner, Some(rail), _, _) => pay::pay(payouts, rail, due).await,
            (RailName::Bank, _, Some(rail), _) => pay::pay(payouts, rail, due).await,
            (RailName::Token, _, _, Some(rail)) => pay::pay(payouts, rail, due).await,
            (name, ..) => anyhow::bail!("the rail {:?} is switched off", name.text()),
        }
    }
}
