//! Addresses that a handler over HTTP may connect to.
//!
//! The socket's address is checked, and never the text of a URL. The check therefore holds whatever a name resolves to,
//! and however an address is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses that a handler over HTTP may connect to; by default, public ones only.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// Whether loopback addresses and private networks are allowed too. Link-local addresses, the metadata services of
    /// clouds and the like are not among them.
    pub allow_private: bool,
    /// Networks that are allowed too.
    pub allow_networks: Vec<IpNet>,
}

/// The error for an address that a handler may not connect to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{address} is {what}; to allow it, set {way_out}")]
pub struct Refused {
    address: IpAddr,
    what: &'static str,
    way_out: String,
}

impl Targets {
    /// Checks that a handler may connect to `address`.
    ///
    /// # Errors
    /// The class of the address, and the setting that would allow it.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let plain = address.to_canonical();
        let (what, private) = match class(plain) {
            Class::Public => return Ok(()),
            Class::Private(_) if self.allow_private => return Ok(()),
            Class::Private(what) => (what, true),
            Class::Special(what) => (what, false),
        };
        if self.allow_networks.iter().any(|network| network.contains(&plain)) {
            return Ok(());
        }
        let network = IpNet::from(plain);
        let way_out = match private {
            true => format!("allow_private = true or allow_networks = [\"{network}\"]"),
            false => format!("allow_networks = [\"{network}\"]"),
        };
        Err(Refused { address, what, way_out })
    }
}

/// Class of an address.
enum Class {
    /// On the public Internet.
    Public,
    /// On the operator's own machine or network.
    Private(&'static str),
    /// Hardly ever the destination of a job's request.
    Special(&'static str),
}

use Class::{Private, Special};

const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "the metadata service of a cloud";
const RESERVED: &str = "a reserved address";
const MULTICAST: &str = "a multicast address";
const UNSPECIFIED: &str = "an unspecified address, which leads to this machine";
const LOOPBACK: &str = "a loopback address";
const PRIVATE: &str = "a private address";

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(start: [u16; 3], end: u16, prefix: u8) -> Ipv6Net {
    let [a, b, c] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, end), prefix)
}

/// IPv4 addresses that are not public, by the registry of special-purpose addresses (RFC 6890 and its successors). The
/// first match decides.
const IPV4: [(Ipv4Net, Class); 20] = [
    (v4(169, 254, 169, 254, 32), Special(METADATA)),
    (v4(100, 100, 100, 200, 32), Special(METADATA)),
    (v4(168, 63, 129, 16, 32), Special(METADATA)),
    (v4(127, 0, 0, 0, 8), Private(LOOPBACK)),
    (v4(10, 0, 0, 0, 8), Private(PRIVATE)),
    (v4(172, 16, 0, 0, 12), Private(PRIVATE)),
    (v4(192, 168, 0, 0, 16), Private(PRIVATE)),
    (v4(100, 64, 0, 0, 10), Private("a carrier's shared address")),
    (v4(0, 0, 0, 0, 32), Special(UNSPECIFIED)),
    (v4(0, 0, 0, 0, 8), Special("an address of this very network")),
    (v4(169, 254, 0, 0, 16), Special(LINK_LOCAL)),
    (v4(192, 0, 0, 0, 24), Special(RESERVED)),
    (v4(192, 0, 2, 0, 24), Special("an address for documentation")),
    (v4(198, 51, 100, 0, 24), Special("an address for documentation")),
    (v4(203, 0, 113, 0, 24), Special("an address for documentation")),
    (v4(192, 88, 99, 0, 24), Special(RESERVED)),
    (v4(198, 18, 0, 0, 15), Special("an address for benchmarks")),
    (v4(224, 0, 0, 0, 4), Special(MULTICAST)),
    (v4(255, 255, 255, 255, 32), Special("the broadcast address")),
    (v4(240, 0, 0, 0, 4), Special(RESERVED)),
];

/// The same for IPv6, of which only 2000::/3 is public at all.
const IPV6: [(Ipv6Net, Class); 10] = [
    (v6([0xfd00, 0xec2, 0], 0x254, 128), Special(METADATA)),
    (v6([0xfd20, 0xce, 0], 0x254, 128), Special(METADATA)),
    (v6([0, 0, 0], 1, 128), Private(LOOPBACK)),
    (v6([0, 0, 0], 0, 128), Special(UNSPECIFIED)),
    (v6([0xfc00, 0, 0], 0, 7), Private(PRIVATE)),
    (v6([0xfe80, 0, 0], 0, 10), Special(LINK_LOCAL)),
    (v6([0xff00, 0, 0], 0, 8), Special(MULTICAST)),
    (v6([0x2001, 0, 0], 0, 23), Special(RESERVED)),
    (v6([0x2001, 0xdb8, 0], 0, 32), Special("an address for documentation")),
    (v6([0x3fff, 0, 0], 0, 20), Special("an address for documentation")),
];

fn class(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inside) => class_v4(inside),
            None => class_v6(address),
        },
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    IPV4.into_iter().find(|(network, _)| network.contains(&address)).map_or(Class::Public, |(_, class)| class)
}

fn class_v6(address: Ipv6Addr) -> Class {
    let listed = IPV6.into_iter().find(|(network, _)| network.contains(&address));
    let global = v6([0x2000, 0, 0], 0, 3).contains(&address);
    listed.map_or(if global { Class::Public } else { Special(RESERVED) }, |(_, class)| class)
}

/// Returns the IPv4 address that a gateway translates an IPv6 address to, by NAT64 (64:ff9b::/96) or 6to4 (2002::/16).
/// Mapped addresses (::ffff:0:0/96) are IPv4 addresses by then; the old compatible ones (::/96) lead nowhere.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let joined = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => joined(g, h),
        (0x2002, _) => joined(b, c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(targets: &Targets, address: &str) -> Option<String> {
        targets.check(address.parse().unwrap()).err().map(|refused| refused.to_string())
    }

    #[test]
    fn public_addresses_are_always_allowed() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert_eq!(refusal(&Targets::default(), address), None, "{address}");
        }
    }

    #[test]
    fn private_addresses_need_the_word_and_others_a_network() {
        let private = Targets { allow_private: true, allow_networks: Vec::new() };
        for (address, what) in [
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.255", LOOPBACK),
            ("::1", LOOPBACK),
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::ffff:7f00:1", LOOPBACK),
            ("64:ff9b::127.0.0.1", LOOPBACK),
            ("2002:7f00:1::", LOOPBACK),
            ("10.0.0.1", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.168.0.1", PRIVATE),
            ("::ffff:192.168.0.1", PRIVATE),
            ("2002:a00:1::1", PRIVATE),
            ("fc00::1", PRIVATE),
            ("fdff::1", PRIVATE),
            ("100.64.0.1", "a carrier's shared address"),
        ] {
            let refused = refusal(&Targets::default(), address).expect(address);
            assert!(refused.contains(what) && refused.contains("allow_private = true or"), "{refused}");
            assert_eq!(refusal(&private, address), None, "{address}");
        }
        for (address, what) in [
            ("169.254.169.254", METADATA),
            ("::ffff:169.254.169.254", METADATA),
            ("64:ff9b::169.254.169.254", METADATA),
            ("100.100.100.200", METADATA),
            ("168.63.129.16", METADATA),
            ("fd00:ec2::254", METADATA),
            ("169.254.0.1", LINK_LOCAL),
            ("fe80::1", LINK_LOCAL),
            ("0.0.0.0", UNSPECIFIED),
            ("::", UNSPECIFIED),
            ("0.1.2.3", "an address of this very network"),
            ("224.0.0.1", MULTICAST),
            ("ff02::1", MULTICAST),
            ("255.255.255.255", "the broadcast address"),
            ("240.0.0.1", RESERVED),
            ("192.0.0.192", RESERVED),
            ("::127.0.0.1", RESERVED),
            ("64:ff9b:1::1", RESERVED),
            ("2001::1", RESERVED),
            ("fec0::1", RESERVED),
            ("198.18.0.1", "an address for benchmarks"),
            ("2001:db8::1", "an address for documentation"),
        ] {
            for targets in [&Targets::default(), &private] {
                let refused = refusal(targets, address).expect(address);
                assert!(refused.contains(what) && !refused.contains("allow_private"), "{refused}");
            }
            let plain = address.parse::<IpAddr>().unwrap().to_canonical();
            let listed = Targets { allow_networks: vec![IpNet::from(plain)], ..Targets::default() };
            assert_eq!(refusal(&listed, address), None, "{address}");
        }
    }

    #[test]
    fn a_refusal_names_the_setting_that_would_allow_it() {
        assert_eq!(
            refusal(&Targets::default(), "::ffff:10.1.2.3").unwrap(),
            "::ffff:10.1.2.3 is a private address; to allow it, set allow_private = true or \
             allow_networks = [\"10.1.2.3/32\"]"
        );
        let networks = vec!["10.1.0.0/16".parse().unwrap(), "fe80::/10".parse().unwrap()];
        let targets = Targets { allow_private: false, allow_networks: networks };
        for (address, allowed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("fe80::1", true),
            ("::1", false),
        ] {
            assert_eq!(refusal(&targets, address).is_none(), allowed, "{address}");
        }
    }
}
