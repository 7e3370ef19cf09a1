//! Which network devices exist in this namespace, asked by netlink.
//!
//! In: a netlink connection. Out: [`Devices`]. [`watch`] gives a stream that tells when to ask again.

use std::collections::BTreeMap;

use crate::image::mac_number;
use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index; another one each time the device is made.
    pub ifindex: u32,
    /// Interface index of the bridge (or bond, …) it is a port of.
    pub master: Option<u32>,
    /// Its hardware address as a number; 0 if it has none of an Ethernet device.
    pub mac: u64,
    /// What its frames begin with.
    pub layer: Layer,
    /// Its kind, as `ip -details link` names it; empty for most hardware.
    pub kind: String,
}

/// What the frames of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// The host talks to itself.
    Loopback,
    /// Nothing that carries IP.
    Monitor,
    /// Nothing, or another header.
    Other,
}

/// The devices of the namespace by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices(pub BTreeMap<String, Device>);

impl Devices {
    /// Asks the kernel.
    ///
    /// # Errors
    /// Netlink fails.
    pub async fn list(netlink: &Handle) -> Result<Self, rtnetlink::Error> {
        let mut devices = BTreeMap::new();
        let mut links = netlink.link().get().execute();
        while let Some(link) = links.try_next().await? {
            if let Some((name, device)) = read(&link) {
                devices.insert(name, device);
            }
        }
        Ok(Self(devices))
    }

    /// Interface index of every device.
    pub fn indices(&self) -> BTreeMap<String, u32> {
        self.0
            .iter()
            .map(|(name, device)| (name.clone(), device.ifindex))
            .collect()
    }

    /// Name of a device and of the bridge it is a port of, by interface index.
    pub fn names(&self) -> BTreeMap<u32, (String, Option<String>)> {
        let by_index: BTreeMap<u32, &String> = self
            .0
            .iter()
            .map(|(name, device)| (device.ifindex, name))
            .collect();
        self.0
            .iter()
            .map(|(name, device)| {
                let bridge = device
                    .master
                    .and_then(|master| by_index.get(&master))
                    .map(|name| (*name).clone());
                (device.ifindex, (name.clone(), bridge))
            })
            .collect()
    }
}

fn read(link: &LinkMessage) -> Option<(String, Device)> {
    let mut name = None;
    let mut master = None;
    let mut kind = String::new();
    let mut mac = 0;
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::Controller(index) = attribute {
            master = Some(*index);
        } else if let LinkAttribute::Address(bytes) = attribute {
            mac = <[u8; 6]>::try_from(&bytes[..]).map_or(0, mac_number);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(found) = info {
                    kind = found.to_string();
                }
            }
        }
    }
    let device = Device {
        ifindex: link.header.index,
        master,
        mac,
        layer: layer(link.header.link_layer_type),
        kind,
    };
    Some((name?, device))
}

fn layer(found: LinkLayerType) -> Layer {
    /// Devices that carry no IP, only other packets or copies of what others send and receive.
    const MONITORS: [LinkLayerType; 6] = [
        LinkLayerType::Can,
        LinkLayerType::Netlink,
        LinkLayerType::Vsockmon,
        LinkLayerType::Ieee80211,
        LinkLayerType::Ieee80211Prism,
        LinkLayerType::Ieee80211Radiotap,
    ];
    if found == LinkLayerType::Ether {
        Layer::Ethernet
    } else if found == LinkLayerType::Loopback {
        Layer::Loopback
    } else if MONITORS.contains(&found) {
        Layer::Monitor
    } else {
        Layer::Other
    }
}

/// What netlink said has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A device of this name and interface index is there: it came, or is another than before.
    Device(String, u32),
    /// A device went, or what else there is to say of devices; or messages were lost.
    Links,
    /// An address or a route.
    Addresses,
}

impl Change {
    /// What a message is about; none if it is about nothing that matters.
    fn of(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        let NetlinkPayload::InnerMessage(message) = &message.payload else {
            return Some(Self::Links);
        };
        if let RouteNetlinkMessage::NewLink(link) = message {
            let device = read(link).map(|(name, device)| Self::Device(name, device.ifindex));
            return Some(device.unwrap_or(Self::Links));
        }
        let is_about_addresses = matches!(
            message,
            RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
        );
        Some(match is_about_addresses {
            true => Self::Addresses,
            false => Self::Links,
        })
    }
}

/// Connects to netlink: a handle for questions, and a stream with an item for each change of any link, address or route. Must be called inside a tokio
/// runtime, where the connection goes on by itself.
///
/// # Errors
/// The socket cannot be made.
pub fn watch() -> std::io::Result<(Handle, impl Stream<Item = Change> + Unpin + Send + 'static)> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let changes = messages.filter_map(|(message, _)| std::future::ready(Change::of(&message)));
    Ok((handle, changes))
}
