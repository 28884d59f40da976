//! What counts as one client: an address, or a network.

use std::net::{IpAddr, Ipv6Addr};

/// One client, as far as limits are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(IpAddr);

impl From<IpAddr> for ClientId {
    /// An IPv4 address; of IPv6 the network of 64 bits, since any host has all of one to choose from. Of the 16 million
    /// addresses of the loopback network, which every local user has to choose from, 16 are told apart.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // All hosts of a link share this network.
            IpAddr::V6(address) if address.is_unicast_link_local() => Self(address.into()),
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 64);
                Self(Ipv6Addr::from_bits(network).into())
            }
            IpAddr::V4(address) if address.is_loopback() => {
                let [.., last] = address.octets();
                Self(IpAddr::from([127, 0, 0, last & 15]))
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> ClientId {
        ClientId::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_ne!(client("fe80::1"), client("fe80::2"));
        assert_ne!(client("127.0.0.1"), client("127.0.0.2"));
        assert_eq!(client("127.0.0.1"), client("127.200.3.17"));
    }
}
