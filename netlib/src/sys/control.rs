//! Control messages (cmsg(3)) of datagrams, read and written as bytes: the ones that tell or set
//! addresses, traffic class and segment size. Each is a header of length, level and type, then
//! the value, padded to a multiple of a pointer's size.

use std::net::{IpAddr, Ipv4Addr};

use super::datagram::Message;
use super::sockaddr::{canonical, ipv6};

/// Size of `struct cmsghdr`: a `size_t` and two ints.
const HEADER: usize = size_of::<usize>() + 8;

/// Options of libc that it does not name everywhere (linux/udp.h).
pub(crate) const UDP_SEGMENT: i32 = 103;
pub(crate) const UDP_GRO: i32 = 104;

/// Explicit congestion notification: the two low bits of the traffic class (RFC 3168).
///
/// ```
/// use netlib::datagram::Ecn;
///
/// assert_eq!(Ecn::from_bits(0b1011_1011), Ecn::Congestion); // DSCP is not looked at
/// assert_eq!(Ecn::Capable0.bits(), 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The sender does not listen to marks.
    #[default]
    NotCapable,
    /// ECT(1), which low-latency congestion control uses (RFC 9331).
    Capable1,
    /// ECT(0), the classic one.
    Capable0,
    /// CE: a router on the way is congested.
    Congestion,
}

impl Ecn {
    /// From a traffic class.
    pub const fn from_bits(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congestion,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotCapable => 0,
            Self::Capable1 => 1,
            Self::Capable0 => 2,
            Self::Congestion => 3,
        }
    }
}

/// What the control messages of a received datagram told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The address that it was sent to.
    pub(crate) to: Option<IpAddr>,
    /// The address of this machine from which to answer: no group, no broadcast address.
    pub(crate) local: Option<IpAddr>,
    pub(crate) class: Option<u8>,
    /// It is several datagrams of so many bytes (the last may be shorter), put together by GRO.
    pub(crate) segment: Option<usize>,
    /// How many the kernel has dropped at this socket, ever, for want of room.
    pub(crate) overflow: Option<u32>,
}

/// Room for the control messages of one datagram.
#[derive(Clone, Debug)]
#[repr(align(8))]
pub(super) struct Control([u8; Self::ROOM]);

impl Control {
    /// All that are asked for, at once, need 168 bytes.
    pub(super) const ROOM: usize = 256;

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// Writes what `message` wants and returns the length.
    pub(super) fn write(&mut self, message: &Message<'_>) -> usize {
        let mut end = 0;
        match message.from {
            Some(IpAddr::V4(from)) => {
                // struct in_pktinfo: interface, source, destination (not looked at).
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&from.octets());
                self.push(&mut end, libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(from)) => {
                // struct in6_pktinfo: source, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.octets());
                self.push(&mut end, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if let Some(class) = message.class {
            let (level, name) =
                if message.over_ipv4 { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) };
            self.push(&mut end, level, name, &i32::from(class.bits()).to_ne_bytes());
        }
        if let Some(segment) = message.segment {
            self.push(&mut end, libc::SOL_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        }
        end
    }

    fn push(&mut self, end: &mut usize, level: i32, name: i32, value: &[u8]) {
        let space = &mut self.0[*end..][..padded(HEADER + value.len())];
        let word = size_of::<usize>();
        space[..word].copy_from_slice(&(HEADER + value.len()).to_ne_bytes());
        space[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        space[word + 4..HEADER].copy_from_slice(&name.to_ne_bytes());
        space[HEADER..][..value.len()].copy_from_slice(value);
        space[HEADER + value.len()..].fill(0);
        *end += space.len();
    }

    /// Reads the first `length` bytes. What is not known is passed over.
    pub(super) fn parse(&self, length: usize) -> Facts {
        let mut facts = Facts::default();
        let mut rest = &self.0[..length.min(Self::ROOM)];
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let word = size_of::<usize>();
            let length = usize::from_ne_bytes(*header.first_chunk().unwrap_or(&[0; size_of::<usize>()]));
            if length < HEADER || length > rest.len() {
                break;
            }
            facts.read(int(&header[word..]), int(&header[word + 4..]), &rest[HEADER..length]);
            rest = &rest[padded(length).min(rest.len())..];
        }
        facts
    }
}

impl Default for Control {
    fn default() -> Self {
        Self([0; Self::ROOM])
    }
}

impl Facts {
    fn read(&mut self, level: i32, name: i32, value: &[u8]) {
        match (level, name) {
            // struct in_pktinfo: interface, our address, the destination in the header.
            (libc::SOL_IP, libc::IP_PKTINFO) if value.len() >= 12 => {
                self.local = Some(IpAddr::V4(Ipv4Addr::new(value[4], value[5], value[6], value[7])));
                self.to = Some(IpAddr::V4(Ipv4Addr::new(value[8], value[9], value[10], value[11])));
            }
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) if value.len() >= 20 => {
                let to = canonical(ipv6(&value[..16]));
                self.to = Some(to);
                // About an IPv4 packet the message above says it better.
                if to.is_ipv6() && !to.is_multicast() {
                    self.local = Some(to);
                }
            }
            // One byte.
            (libc::SOL_IP, libc::IP_TOS) => self.class = value.first().copied(),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) if value.len() >= 4 => self.class = Some(int(value) as u8),
            (libc::SOL_UDP, UDP_GRO) if value.len() >= 4 => {
                self.segment = usize::try_from(int(value)).ok().filter(|segment| *segment > 0);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if value.len() >= 4 => self.overflow = Some(int(value) as u32),
            _ => {}
        }
    }

    pub(crate) fn ecn(&self) -> Ecn {
        Ecn::from_bits(self.class.unwrap_or(0))
    }
}

fn int(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes(*bytes.first_chunk().unwrap_or(&[0; 4]))
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Address;
    use crate::sys::datagram::Class;

    fn written(to: &str, from: Option<&str>) -> (Control, usize) {
        let to = Address::Inet(to.parse().unwrap());
        let message = Message {
            pieces: &[],
            to: Some(&to),
            over_ipv4: !from.is_some_and(|from| from.contains(':')),
            from: from.map(|from| from.parse().unwrap()),
            class: Some(Class { dscp: 46, ecn: Ecn::Congestion }),
            segment: Some(1200),
        };
        let mut control = Control::default();
        let length = control.write(&message);
        (control, length)
    }

    /// The parser of this file and the C macros agree on where the messages are.
    #[test]
    fn what_is_written_is_where_the_c_macros_look() {
        for (to, from) in [("192.0.2.1:1", Some("192.0.2.2")), ("[2001:db8::1]:1", Some("2001:db8::2"))] {
            let (mut control, length) = written(to, from);
            let mut seen = Vec::new();
            // SAFETY: the header points to a control buffer of the stated length; the macros
            // stay within it.
            unsafe {
                let mut header: libc::msghdr = std::mem::zeroed();
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = length as _;
                let mut message = libc::CMSG_FIRSTHDR(&raw const header);
                while !message.is_null() {
                    seen.push(((*message).cmsg_level, (*message).cmsg_type));
                    message = libc::CMSG_NXTHDR(&raw const header, message);
                }
            }
            let expected = if to.starts_with('[') {
                [
                    (libc::SOL_IPV6, libc::IPV6_PKTINFO),
                    (libc::SOL_IPV6, libc::IPV6_TCLASS),
                    (libc::SOL_UDP, UDP_SEGMENT),
                ]
            } else {
                [(libc::SOL_IP, libc::IP_PKTINFO), (libc::SOL_IP, libc::IP_TOS), (libc::SOL_UDP, UDP_SEGMENT)]
            };
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn the_traffic_class_holds_both_of_its_parts() {
        let (control, length) = written("192.0.2.1:1", None);
        let facts = control.parse(length);
        assert_eq!(facts.class, Some(46 << 2 | 3));
        assert_eq!(facts.ecn(), Ecn::Congestion);
    }

    #[test]
    fn broken_lengths_end_the_parse_and_nothing_else() {
        let (mut control, length) = written("192.0.2.1:1", Some("192.0.2.2"));
        let whole = control.parse(length);
        assert!(whole.to.is_some() && whole.class.is_some());
        for cut in 0..=length {
            control.parse(cut);
        }
        for wrong in [0_usize, 1, HEADER - 1, Control::ROOM + 1, usize::MAX] {
            control.0[..size_of::<usize>()].copy_from_slice(&wrong.to_ne_bytes());
            assert_eq!(control.parse(length), Facts::default());
            assert_eq!(control.parse(usize::MAX), Facts::default());
        }
    }
}
