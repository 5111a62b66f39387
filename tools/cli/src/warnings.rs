//! Warnings about a valid file that is probably not what its author wants.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::list::{IpAddress, Own};
use crate::plugin::{Backend, Identity, Plugin, Source, Unlisted};
use crate::problem::Problems;

/// Adds warnings about the plugin configuration itself.
pub(crate) fn of_plugin(plugin: &Plugin, warnings: &mut Problems<'_>) {
    for (i, backend) in plugin.backends.iter().enumerate() {
        let path = format!("backends[{i}]");
        if let Some(text) = of_host(&backend.host) {
            warnings.add(&format!("{path}.host"), text);
        }
        if refuses_everything(backend) {
            warnings.add(
                &format!("{path}.unlisted_deployments"),
                "warning: the backend refuses every deployment, because it lists none; list its `deployments`, or use \"pass\"",
            );
        }
    }
    let headers = plugin.headers.as_ref();
    let names_clients = headers.is_some_and(|headers| matches!(headers.client, Some(Some(_))));
    if matches!(plugin.limits, Some(Some(_))) && !names_clients {
        warnings.add(
            "limits",
            "warning: without `headers.client` all requests are one client's, and these limits are for all of them together; \
             name the header with the client's name",
        );
    }
}

/// Adds warnings about the fields that only a list of backends has.
pub(crate) fn of_own(plugin: &Plugin, own: &Own, in_kubernetes: bool, warnings: &mut Problems<'_>) {
    let address = |given: Option<IpAddr>, otherwise| given.unwrap_or(IpAddr::V4(otherwise));
    let given = |field: &Option<IpAddress>| field.as_ref().map(|address| address.0);
    let mut places = vec![
        (
            "listener",
            address(given(&own.listener.address), Ipv4Addr::UNSPECIFIED),
            own.listener.port(),
        ),
        (
            "admin",
            address(given(&own.admin.address), Ipv4Addr::LOCALHOST),
            own.admin.port(),
        ),
    ];
    if let Some(status) = &own.status {
        let address = address(given(&status.address), Ipv4Addr::LOCALHOST);
        places.push(("status", address, status.port.0));
    }
    for (index, (field, address, port)) in places.iter().enumerate() {
        let before = places.iter().take(index);
        for (other, taken, _) in before.filter(|(_, _, other)| other == port) {
            if address == taken || address.is_unspecified() || taken.is_unspecified() {
                let whose = match *other {
                    "admin" => "the admin interface's",
                    _ => "the listener's",
                };
                warnings.add(
                    &format!("{field}.port"),
                    format!("warning: {port} is {whose} port too; use a port of its own"),
                );
            }
        }
    }
    if !in_kubernetes {
        return;
    }
    let named = plugin.identities.iter().flatten();
    let named: BTreeMap<String, &Identity> = named
        .map(|(name, identity)| (format!("identities.{name}"), identity))
        .collect();
    let first = plugin.identity.iter();
    let first = first.map(|identity| ("identity".to_owned(), identity));
    for (path, identity) in first.chain(named) {
        if is_any_of_imds(identity) {
            warnings.add(
                &path,
                "warning: on AKS, IMDS gives the identity of the node, and refuses to choose when it has several; use the source \
                 \"workload_identity\", or name one with `client_id`",
            );
        }
    }
}

/// Warns about a host: Azure's certificates are for names, and its resources answer on port 443 only.
fn of_host(host: &str) -> Option<String> {
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    if name.parse::<IpAddr>().is_ok() {
        return Some(format!(
            "warning: {host:?} is an IP address, for which no resource has a certificate; use the resource's host name"
        ));
    }
    (name != host).then(|| {
        format!("warning: {host:?} has a port, which becomes part of the `host` header; use the host name alone")
    })
}

fn refuses_everything(backend: &Backend) -> bool {
    let lists_none = backend.deployments.as_ref().is_none_or(BTreeMap::is_empty);
    lists_none && backend.unlisted_deployments == Some(Unlisted::Refuse)
}

/// Whether IMDS chooses the identity.
fn is_any_of_imds(identity: &Identity) -> bool {
    let ids = [
        &identity.client_id,
        &identity.object_id,
        &identity.msi_res_id,
    ];
    matches!(identity.source, None | Some(Source::Imds)) && ids.iter().all(|id| id.is_none())
}
