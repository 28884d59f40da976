//! Which part of the network an address belongs to, and what may be reached from where. Pure.
//!
//! A registry that is not trusted names hosts: in a redirect, as its realm. None of them may lead to this machine, its
//! link, or the addresses where clouds give a machine its credentials. The name says nothing of that, so the address is
//! judged that a connection would be made to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::origin::ip;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Zone {
    Public,
    /// RFC 1918. Registries with their storage on such a network are common, so any registry may lead there.
    Private,
    Loopback,
    LinkLocal,
    /// RFC 4193, and what was there before it.
    UniqueLocal,
    /// Between a provider and its customers (RFC 6598). Container networks use it too.
    Shared,
    /// Where a cloud serves its machines: credentials among others.
    Metadata,
    /// What no host has: unspecified, multicast, broadcast, reserved.
    NoHost,
}

/// Where a connection may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reach {
    /// For hosts that the configuration names.
    Anywhere,
    /// For hosts that a registry names: what is public or private, and the zone that the registry itself is in.
    Beside(Zone),
}

impl Zone {
    pub(crate) const ALL: [Self; 8] = [
        Self::Public,
        Self::Private,
        Self::Loopback,
        Self::LinkLocal,
        Self::UniqueLocal,
        Self::Shared,
        Self::Metadata,
        Self::NoHost,
    ];

    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Of a host as it is written, if that tells: an address in any spelling, or a name that is always local.
    pub(crate) fn of_host(host: &str) -> Option<Self> {
        if let Some(address) = ip(host) {
            return Some(Self::of(address));
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // RFC 6761 6.3, and what distributions write into /etc/hosts.
        let loopback = [
            "localhost",
            "localhost.localdomain",
            "ip6-localhost",
            "ip6-loopback",
        ];
        let metadata = ["metadata.google.internal", "metadata.goog", "instance-data"];
        if loopback.contains(&&*name) || name.ends_with(".localhost") {
            return Some(Self::Loopback);
        }
        metadata.contains(&&*name).then_some(Self::Metadata)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "this machine",
            Self::LinkLocal => "link-local",
            Self::UniqueLocal => "unique local",
            Self::Shared => "shared address space",
            Self::Metadata => "a cloud's metadata",
            Self::NoHost => "no host",
        }
    }
}

impl Reach {
    pub(crate) fn allows(self, zone: Zone) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Beside(own) => matches!(zone, Zone::Public | Zone::Private) || zone == own,
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Zone {
    match address.octets() {
        // AWS and others; its containers and EKS; Alibaba; Azure; Oracle.
        [169, 254, 169 | 170, _] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
            Zone::Metadata
        }
        [127, ..] => Zone::Loopback,
        [169, 254, ..] => Zone::LinkLocal,
        [100, 64..=127, ..] => Zone::Shared,
        [0, ..] | [224..=255, ..] => Zone::NoHost,
        _ if address.is_private() => Zone::Private,
        _ => Zone::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Zone {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Zone::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] => Zone::NoHost,
        // AWS; Google.
        [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => Zone::Metadata,
        [0xfe80..=0xfebf, ..] => Zone::LinkLocal,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Zone::UniqueLocal,
        _ => embedded(address).map_or(Zone::Public, of_v4),
    }
}

/// The IPv4 address that an IPv6 address stands for, in each of the ways there are.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        // Mapped, and compatible (RFC 4291 2.5.5); translated (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => {
            Some(v4(high, low))
        }
        // NAT64 (RFC 6052, RFC 8215).
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] | [0x0064, 0xff9b, 1, _, _, _, high, low] => {
            Some(v4(high, low))
        }
        // 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214).
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        [_, _, _, _, 0 | 0x0200, 0x5efe, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(address: &str) -> Zone {
        Zone::of(address.parse().unwrap())
    }

    #[test]
    fn what_is_not_for_strangers_is_known() {
        for (address, expected) in [
            ("127.0.0.1", Zone::Loopback),
            ("127.255.255.254", Zone::Loopback),
            ("::1", Zone::Loopback),
            ("169.254.1.1", Zone::LinkLocal),
            ("fe80::1", Zone::LinkLocal),
            ("fe80::5efe:808:808", Zone::LinkLocal),
            ("169.254.169.254", Zone::Metadata),
            ("169.254.170.2", Zone::Metadata),
            ("fd00:ec2::254", Zone::Metadata),
            ("fd20:ce::254", Zone::Metadata),
            ("100.100.100.200", Zone::Metadata),
            ("168.63.129.16", Zone::Metadata),
            ("192.0.0.192", Zone::Metadata),
            ("fd12:3456::1", Zone::UniqueLocal),
            ("fec0::1", Zone::UniqueLocal),
            ("100.64.0.1", Zone::Shared),
            ("100.127.255.255", Zone::Shared),
            ("0.0.0.0", Zone::NoHost),
            ("0.1.2.3", Zone::NoHost),
            ("::", Zone::NoHost),
            ("224.0.0.1", Zone::NoHost),
            ("255.255.255.255", Zone::NoHost),
            ("ff02::1", Zone::NoHost),
            ("10.0.0.1", Zone::Private),
            ("172.31.255.255", Zone::Private),
            ("192.168.1.1", Zone::Private),
            ("8.8.8.8", Zone::Public),
            ("172.32.0.1", Zone::Public),
            ("100.63.0.1", Zone::Public),
            ("2001:4860::8888", Zone::Public),
        ] {
            assert_eq!(zone(address), expected, "{address}");
        }
    }

    #[test]
    fn a_name_that_is_always_local_is_known_without_resolving_it() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.b.localhost",
            "127.1",
            "2130706433",
            "[::1]",
        ] {
            assert_eq!(Zone::of_host(host), Some(Zone::Loopback), "{host}");
        }
        let metadata = Zone::of_host("Metadata.Google.Internal");
        assert_eq!(metadata, Some(Zone::Metadata));
        for host in ["registry.example", "localhost.example", "notlocalhost"] {
            assert_eq!(Zone::of_host(host), None, "{host}");
        }
    }

    #[test]
    fn a_registry_leads_to_the_zone_that_it_is_in_itself() {
        for zone in Zone::ALL {
            assert!(Reach::Anywhere.allows(zone));
            assert!(Reach::Beside(zone).allows(zone));
            let open = matches!(zone, Zone::Public | Zone::Private);
            assert_eq!(Reach::Beside(Zone::Public).allows(zone), open, "{zone:?}");
            assert_eq!(Reach::Beside(Zone::Private).allows(zone), open, "{zone:?}");
        }
        assert!(!Reach::Beside(Zone::Loopback).allows(Zone::Metadata));
        assert!(!Reach::Beside(Zone::LinkLocal).allows(Zone::Metadata));
    }

    proptest! {
        /// An IPv4 address is in the same zone in whatever way IPv6 writes it.
        #[test]
        fn no_spelling_in_ipv6_hides_an_ipv4_address(bits: u32, prefix: u64) {
            let v4 = Ipv4Addr::from(bits);
            let [high, low] = [(bits >> 16) as u16, bits as u16];
            let [a, b] = [(prefix >> 16) as u16, prefix as u16];
            prop_assume!(bits > 1);
            for spelt in [
                v4.to_ipv6_mapped(),
                v4.to_ipv6_compatible(),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, a, b, a, high, low),
                Ipv6Addr::new(0x2002, high, low, a, b, a, b, a),
                Ipv6Addr::new(0x2001, 0, a, b, a, b, !high, !low),
                Ipv6Addr::new(0x2a00, a, b, a, 0x0200, 0x5efe, high, low),
            ] {
                prop_assert_eq!(Zone::of(spelt.into()), Zone::of(v4.into()), "{}", spelt);
            }
        }
    }
}
