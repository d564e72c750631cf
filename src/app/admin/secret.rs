//! Who may write, and who may read rows: whoever shows the secret, in `x-webhook-signature` as it is, or as
//! `Authorization: Bearer`.
//!
//! Digests are compared, in constant time, so neither the secret's content nor its length shows in how long that takes.
//! Who shows a wrong one too often has to wait, and until then is not even compared.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use ring::digest::{SHA256, digest};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::config::Admin;

/// The header of the Workers that walcast takes over from; it holds the secret itself.
pub(super) const SIGNATURE_HEADER: &str = "x-webhook-signature";
/// Wrong secrets from one address before it has to wait, and then how many a minute.
const WRONG_BURST: u32 = 10;
const WRONG_PER_MINUTE: u32 = 10;
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 4_096;

/// Compares what requests show.
pub(super) struct Gate {
    digest: Option<[u8; 32]>,
    wrong: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>,
    clock: DefaultClock,
    waits: Mutex<HashMap<IpAddr, Instant>>,
}

/// What a request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// No secret.
    Nothing,
    /// The right one.
    Secret,
}

impl Gate {
    pub(super) fn new(config: &Admin) -> Self {
        let nonzero = |number| NonZeroU32::new(number).expect("the limits are not zero");
        let quota = Quota::per_minute(nonzero(WRONG_PER_MINUTE)).allow_burst(nonzero(WRONG_BURST));
        Gate {
            digest: config.secret.as_ref().map(|secret| hash(secret.expose_secret().as_bytes())),
            wrong: RateLimiter::hashmap(quota),
            clock: DefaultClock::default(),
            waits: Mutex::default(),
        }
    }

    /// Whether there is a secret at all.
    pub(super) fn has_secret(&self) -> bool {
        self.digest.is_some()
    }

    /// What the request shows.
    ///
    /// # Errors
    /// 401 for a wrong secret, 429 after too many of them.
    pub(super) fn look(&self, address: IpAddr, headers: &HeaderMap) -> Result<Shown, Problem> {
        let bearer = headers.get(header::AUTHORIZATION).map(|value| {
            let value = value.as_bytes();
            match value.split_at_checked(7) {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
                _ => value,
            }
        });
        let signature = headers.get(SIGNATURE_HEADER).map(|value| value.as_bytes());
        let Some(offered) = signature.or(bearer) else { return Ok(Shown::Nothing) };
        let address = client(address);
        self.refuse_waiting(address)?;
        let is_right = self.digest.is_some_and(|digest| bool::from(digest.ct_eq(&hash(offered))));
        if is_right {
            return Ok(Shown::Secret);
        }
        self.count_wrong(address);
        Err(Problem::unauthorized("the secret is not the right one"))
    }

    fn refuse_waiting(&self, address: IpAddr) -> Result<(), Problem> {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match waits.get(&address).map(|until| until.saturating_duration_since(now)) {
            None => Ok(()),
            Some(Duration::ZERO) => {
                waits.remove(&address);
                Ok(())
            }
            Some(wait) => Err(Problem::too_many("too many wrong secrets from this address", wait)),
        }
    }

    fn count_wrong(&self, address: IpAddr) {
        let Err(exceeded) = self.wrong.check_key(&address) else {
            if self.wrong.len() > ADDRESSES_MAX {
                self.wrong.retain_recent();
            }
            return;
        };
        let now = Instant::now();
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.len() >= ADDRESSES_MAX {
            waits.retain(|_, until| *until > now);
        }
        if waits.len() < ADDRESSES_MAX {
            waits.insert(address, now + exceeded.wait_time_from(self.clock.now()));
            tracing::warn!(%address, "wrong secrets at the HTTP API again and again; the address has to wait");
        }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Whom an address stands for: of IPv6, whoever has the /64 has all of it.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn gate(secret: Option<&str>) -> Gate {
        let mut config = Admin::default();
        config.secret = secret.map(|secret| secret.to_owned().into());
        Gate::new(&config)
    }

    fn headers(name: &str, value: &str) -> HeaderMap {
        let name: header::HeaderName = name.parse().unwrap();
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn the_secret_is_taken_from_either_header_and_nothing_else() {
        let gate = gate(Some("s3cret"));
        for (name, value) in [
            ("x-webhook-signature", "s3cret"),
            ("authorization", "Bearer s3cret"),
            ("authorization", "bearer s3cret"),
        ] {
            assert_eq!(gate.look(ADDRESS, &headers(name, value)).unwrap(), Shown::Secret, "{name}: {value}");
        }
        for (name, value) in [
            ("x-webhook-signature", "s3cre"),
            ("x-webhook-signature", "s3cret2"),
            ("x-webhook-signature", ""),
            ("authorization", "Basic s3cret"),
            ("authorization", "Bearer"),
        ] {
            assert_eq!(gate.look(ADDRESS, &headers(name, value)).unwrap_err().kind, "unauthorized");
        }
        assert_eq!(gate.look(ADDRESS, &HeaderMap::new()).unwrap(), Shown::Nothing);
        assert_eq!(gate.look(ADDRESS, &headers("x-secret", "s3cret")).unwrap(), Shown::Nothing);
    }

    #[test]
    fn without_a_secret_nothing_is_the_right_one() {
        assert_eq!(
            gate(None).look(ADDRESS, &headers(SIGNATURE_HEADER, "")).unwrap_err().kind,
            "unauthorized"
        );
    }

    #[test]
    fn after_too_many_wrong_ones_an_address_waits_and_the_others_do_not() {
        let gate = gate(Some("s3cret"));
        let wrong = headers(SIGNATURE_HEADER, "guess");
        let kinds: Vec<&str> =
            (0..WRONG_BURST + 5).map(|_| gate.look(ADDRESS, &wrong).unwrap_err().kind).collect();
        assert_eq!(kinds[WRONG_BURST as usize], "unauthorized");
        assert_eq!(kinds[WRONG_BURST as usize + 1], "throttled");
        // Not even the right one is compared: otherwise guessing would only be slower to say no.
        let right = headers(SIGNATURE_HEADER, "s3cret");
        assert_eq!(gate.look(ADDRESS, &right).unwrap_err().kind, "throttled");
        assert_eq!(gate.look("10.0.0.2".parse().unwrap(), &right).unwrap(), Shown::Secret);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_what_it_maps() {
        assert_eq!(client("2001:db8::1:2:3:4".parse().unwrap()), client("2001:db8::9".parse().unwrap()));
        assert_eq!(client("::ffff:10.0.0.1".parse().unwrap()), ADDRESS);
    }
}
