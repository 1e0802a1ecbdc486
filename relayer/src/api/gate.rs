//! Who may pass: the holder of an API key, as often as the provider's token bucket allows, for what the key is for.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use alloy::primitives::Address;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};

use super::signature;
use crate::{
    app::App,
    http,
    intake::{
        Provider,
        key::{self, Scope},
        provider::{self, Caller},
    },
    problem::{Kind, Problem},
};

/// A token bucket for each provider: all its keys and requests together.
pub struct Rates {
    // a bucket for each provider that was let in: keys of nobody never get here
    buckets: RateLimiter<Address, HashMapStateStore<Address>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    quota: Quota,
}

/// What a bucket said, for the headers of draft-ietf-httpapi-ratelimit-headers-10.
struct Said {
    policy: String,
    limit: String,
    /// Seconds to wait, where there was no token.
    wait: Option<u64>,
}

impl Rates {
    /// So many requests a minute, and so many at once; `None` for no limit.
    pub fn new(per_minute: u32, burst: u32) -> Option<Self> {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute)?).allow_burst(NonZeroU32::new(burst)?);
        let clock = DefaultClock::default();
        let buckets =
            RateLimiter::<_, _, _, StateInformationMiddleware>::new(quota, HashMapStateStore::default(), clock.clone());
        Some(Self { buckets, clock, quota })
    }

    fn take(&self, provider: Address) -> Said {
        let burst = self.quota.burst_size().get();
        let full_in = |missing: u32| seconds_up(self.quota.replenish_interval().saturating_mul(missing));
        let policy = format!("\"provider\";q={burst};w={}", full_in(burst));
        match self.buckets.check_key(&provider) {
            Ok(left) => {
                let left = left.remaining_burst_capacity();
                Said {
                    policy,
                    limit: format!("\"provider\";r={left};t={}", full_in(burst.saturating_sub(left))),
                    wait: None,
                }
            }
            Err(until) => {
                let wait = seconds_up(until.wait_time_from(self.clock.now())).max(1);
                Said { policy, limit: format!("\"provider\";r=0;t={wait}"), wait: Some(wait) }
            }
        }
    }
}

fn seconds_up(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

impl Said {
    fn write(&self, headers: &mut HeaderMap) {
        let texts = [("ratelimit-policy", &self.policy), ("ratelimit", &self.limit)];
        for (name, value) in
            texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?)))
        {
            headers.insert(name, value);
        }
        if let Some(seconds) = self.wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

/// Lets requests with a good API key through, signed where they have to be, with the [`Caller`] that they come from.
pub async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let caller = match known(&app, request.headers()).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let said = app.rates.as_ref().map(|rates| rates.take(caller.provider.account));
    let mut response = match said.as_ref().and_then(|said| said.wait) {
        None => pass(&app, caller, request, next).await.unwrap_or_else(IntoResponse::into_response),
        Some(seconds) => {
            metrics::counter!("rate_limited_total", "provider" => caller.provider.name).increment(1);
            Problem::new(Kind::RateLimited, format!("too many requests; wait {seconds} s")).into_response()
        }
    };
    if let Some(said) = said {
        said.write(response.headers_mut());
    }
    response
}

async fn pass(app: &App, caller: Caller, request: Request, next: Next) -> Result<Response, Problem> {
    let mut request = signature::check(app, &caller, request).await?;
    request.extensions_mut().insert(Arc::new(caller));
    Ok(next.run(request).await)
}

async fn known(app: &App, headers: &HeaderMap) -> Result<Caller, Problem> {
    let Some(key) = http::header_text(headers, "x-api-key")? else {
        return Err(Problem::field(Kind::ApiKeyMissing, "X-API-Key", "an API key", "none"));
    };
    key::caller(&app.db, key).await?.ok_or_else(|| {
        Problem::new(Kind::ApiKeyUnknown, "X-API-Key: expected a key that was issued here, not revoked and not expired")
    })
}

/// The provider that asks, where its key is for this and there is room for it; `X-Provider`, where it is there or needed, must name the same.
pub async fn allowed<'a>(
    app: &App,
    caller: &'a Caller,
    headers: &HeaderMap,
    scope: Scope,
    must_be_named: bool,
) -> Result<&'a Provider, Problem> {
    let provider = &caller.provider;
    match http::header_text(headers, "x-provider")? {
        Some(name) if name == provider.name => {}
        Some(name) if provider::is_known(&app.db, name).await? => {
            return Err(Problem::field(
                Kind::ApiKeyOfOther,
                "X-Provider",
                "the provider that the key was issued to",
                name,
            ));
        }
        Some(name) => {
            return Err(Problem::field(Kind::ProviderUnknown, "X-Provider", "a provider that was let in", name));
        }
        None if must_be_named => {
            return Err(Problem::field(Kind::HeaderInvalid, "X-Provider", "the provider's name", "none"));
        }
        None => {}
    }
    if !caller.scopes.contains(&scope) {
        let actual: Vec<&str> = caller.scopes.iter().map(|scope| scope.name()).collect();
        let expected = format!("a key with the scope `{}`", scope.name());
        return Err(Problem::field(Kind::ScopeMissing, "X-API-Key", expected, actual.join(", ")));
    }
    // withdrawals and erasures are never turned away
    if matches!(scope, Scope::Records | Scope::Uploads) {
        app.backlog.check(provider.account)?;
    }
    Ok(provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_is_one_a_provider_and_says_what_is_left_and_when_it_is_full() {
        let rates = Rates::new(60, 3).unwrap();
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let said: Vec<Said> = (0..4).map(|_| rates.take(one)).collect();
        let limits: Vec<&str> = said.iter().map(|said| said.limit.as_str()).collect();
        assert_eq!(
            limits,
            [r#""provider";r=2;t=1"#, r#""provider";r=1;t=2"#, r#""provider";r=0;t=3"#, r#""provider";r=0;t=1"#]
        );
        assert_eq!(said.iter().map(|said| said.wait).collect::<Vec<_>>(), [None, None, None, Some(1)]);
        assert!(said.iter().all(|said| said.policy == r#""provider";q=3;w=3"#));
        assert_eq!(rates.take(other).wait, None);
        let mut headers = HeaderMap::new();
        said[3].write(&mut headers);
        assert_eq!(
            (&headers["retry-after"], &headers["ratelimit"]),
            (&HeaderValue::from(1), &HeaderValue::from_static(r#""provider";r=0;t=1"#))
        );
        assert!(Rates::new(0, 5).is_none() && Rates::new(5, 0).is_none());
    }
}
