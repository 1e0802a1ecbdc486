//! Requests bounded by the address that they come from.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

use crate::problem::Problem;

/// Addresses that are remembered before those that have been quiet are forgotten, and before new ones have to wait.
const ADDRESSES_KEPT: usize = 10_000;
const ADDRESSES_MAX: usize = 100_000;

/// A bucket of tokens for each address; an extension of the routes that it bounds.
#[derive(Clone)]
pub struct Rates {
    per_minute: NonZeroU32,
    buckets: Arc<RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>>,
    clock: DefaultClock,
}

impl Rates {
    /// So many requests a minute from an address.
    pub fn per_minute(per_minute: NonZeroU32) -> Self {
        let clock = DefaultClock::default();
        let quota = Quota::per_minute(per_minute);
        let buckets = Arc::new(RateLimiter::new(quota, HashMapStateStore::default(), clock.clone()));
        Self { per_minute, buckets, clock }
    }

    /// Seconds to wait, where there is no token.
    fn take(&self, address: IpAddr) -> Result<(), u64> {
        if self.buckets.len() > ADDRESSES_KEPT {
            self.buckets.retain_recent();
            if self.buckets.len() > ADDRESSES_MAX {
                return Err(60);
            }
        }
        self.buckets.check_key(&bucket(address)).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
        })
    }
}

/// A network of version 6 is one client: it has addresses without end.
fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// Who asks, by the address of the connection, where that address has a token left.
pub struct Client(pub IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Client {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip());
        let Some(rates) = parts.extensions.get::<Rates>() else { return Ok(Self(address)) };
        match rates.take(address) {
            Ok(()) => Ok(Self(address)),
            Err(wait) => {
                let title = "Too many requests";
                let detail = format!("{} a minute are taken from an address; wait {wait} s", rates.per_minute);
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", title, detail);
                let mut response = problem.into_response();
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
                Err(response)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_requests_and_then_waits_alone() {
        let rates = Rates::per_minute(NonZeroU32::new(60).unwrap());
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..60 {
            assert_eq!(rates.take(one), Ok(()));
        }
        let wait = rates.take(one).unwrap_err();
        assert!((1..=2).contains(&wait), "{wait}");
        assert_eq!(rates.take(other), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_network_are_one_client() {
        let of = |text: &str| bucket(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
