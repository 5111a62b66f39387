//! The next destination of Envoy's router. It is written in advance, before it is known whether the router retries.

use super::{Exchange, Next, State};
use crate::balancer::Balancer;
use crate::host::Host;
use crate::prelude::*;

/// The hexadecimal digits of a request's id in a [destination](Exchange::write_destination).
const ID_DIGITS: usize = 8;

impl Exchange {
    /// The cluster to which the router goes if it retries.
    pub fn destination<'a, H: Host>(&self, balancer: &'a Balancer<H>) -> Option<&'a str> {
        let backend = match self.state {
            State::Attempting | State::Deciding(_) => self.router.foreseen?,
            _ => self.attempts.backend(),
        };
        let backend = balancer.config.backends.get(backend)?;
        Some(&backend.cluster)
    }

    /// Writes [`Self::destination`] for the route's matcher, which reads up to the first space. After the space comes
    /// the `id` of the request, by which an attempt finds its request. `false` if there is no destination.
    ///
    /// One value has both because each value costs a host call.
    pub fn write_destination<H: Host>(
        &self,
        id: u32,
        into: &mut Vec<u8>,
        balancer: &Balancer<H>,
    ) -> bool {
        let Some(cluster) = self.destination(balancer) else {
            return false;
        };
        write(into, cluster, id);
        true
    }

    /// The backend to which the router should go if the current attempt gets no answer.
    #[inline(never)]
    pub(super) fn foresee<H: Host>(&self, balancer: &Balancer<H>) -> Option<usize> {
        let demand = || self.request.demand();
        balancer.foresee(self.attempts.plan(), demand).ok()
    }

    /// Chooses the destination again: since the attempt began, backends may have been throttled or have recovered.
    #[inline(never)]
    pub(super) fn on_look_ahead<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !matches!(self.state, State::Attempting | State::Deciding(_)) {
            return Next::Continue;
        }
        let foreseen = self.foresee(balancer);
        let before = core::mem::replace(&mut self.router.foreseen, foreseen);
        match foreseen.is_some() && foreseen != before {
            true => Next::Point,
            false => Next::Continue,
        }
    }
}

fn write(into: &mut Vec<u8>, cluster: &str, id: u32) {
    let mut end = [b' '; 1 + ID_DIGITS];
    let mut rest = id;
    for digit in end.iter_mut().skip(1).rev() {
        let value = (rest % 16) as u8;
        *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
        rest /= 16;
    }
    into.clear();
    into.extend_from_slice(cluster.as_bytes());
    into.extend_from_slice(&end);
}

/// The request's id in a [destination](Exchange::write_destination).
pub fn request_of(destination: &[u8]) -> Option<u32> {
    let digits = destination.last_chunk::<ID_DIGITS>()?;
    digits.iter().try_fold(0, |id, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(id << 4 | u32::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_has_the_cluster_and_the_requests_id() {
        for id in [0, 1, 0x2a, u32::MAX] {
            let mut destination = b"what was there".to_vec();
            write(&mut destination, "aoai_west", id);
            assert_eq!(destination, format!("aoai_west {id:08x}").as_bytes());
            assert_eq!(request_of(&destination), Some(id));
        }
        for other in ["", "aoai_west", "aoai_west 0000000g"] {
            assert_eq!(request_of(other.as_bytes()), None, "{other}");
        }
    }
}
