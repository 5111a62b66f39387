//! The default audience of an identity's tokens and the default authority of Entra ID. Both follow from the backends'
//! hosts.
//!
//! Source: <https://learn.microsoft.com/azure/ai-foundry/openai/how-to/managed-identity>, and the endpoints of the sovereign
//! clouds: <https://learn.microsoft.com/azure/azure-government/compare-azure-government-global-azure>.

use super::problem::Fault;
use super::reader::Problems;
use super::{Backend, BackendCredential, Identity, Source};
use crate::prelude::*;

/// The audience of Azure OpenAI in the public cloud.
const PUBLIC: &str = "https://cognitiveservices.azure.com";
/// The audience of Foundry resources.
const FOUNDRY: &str = "https://ai.azure.com";
const US_GOVERNMENT: &str = "https://cognitiveservices.azure.us";
const CHINA: &str = "https://cognitiveservices.azure.cn";

/// The authorities of the clouds, by the suffixes of their audiences:
/// <https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud>.
const AUTHORITIES: [(&str, &str); 2] = [
    (".azure.us", "login.microsoftonline.us"),
    (".azure.cn", "login.partner.microsoftonline.cn"),
];
const PUBLIC_AUTHORITY: &str = "login.microsoftonline.com";

/// Sets the default audience of each identity without one, and the default authority of Entra ID.
#[inline(never)]
pub(super) fn complete(identities: &mut [Identity], backends: &[Backend], problems: &Problems) {
    set_audiences(identities, backends, problems);
    for identity in identities {
        match &mut identity.source {
            Source::Entra { authority, .. } if authority.is_empty() => {
                *authority = authority_for(&identity.resource).to_owned();
            }
            _ => {}
        }
    }
}

/// The reason why a backend that refuses a new token gets no requests, and how to fix it.
#[inline(never)]
pub(super) fn new_token_refused(audience: &str, host: &str) -> String {
    let audience = audience.trim_end_matches('/');
    let other = match of_host(host).unwrap_or(PUBLIC) {
        of_host if of_host != audience => Some(of_host),
        PUBLIC => Some(FOUNDRY),
        FOUNDRY => Some(PUBLIC),
        _ => None,
    };
    let text = format!("refuses a token that was just fetched (401): its audience is {audience}; ");
    match other {
        Some(other) => format!(
            "{text}if the resource expects {other}, set that as the identity's `resource`; otherwise check the resource's tenant"
        ),
        None => text + "check the resource's tenant",
    }
}

/// The authority of the cloud of `audience`.
fn authority_for(audience: &str) -> &'static str {
    let audience = audience.trim_end_matches('/');
    let mut authorities = AUTHORITIES.into_iter();
    let found = authorities.find(|(suffix, _)| audience.ends_with(suffix));
    found.map_or(PUBLIC_AUTHORITY, |(_, authority)| authority)
}

fn set_audiences(identities: &mut [Identity], backends: &[Backend], problems: &Problems) {
    for (index, identity) in identities.iter_mut().enumerate() {
        if !identity.resource.is_empty() {
            continue;
        }
        let own = backends
            .iter()
            .filter(|backend| backend.credential == BackendCredential::Identity(index));
        identity.resource = match common(own.map(|backend| backend.host.as_str())) {
            Ok(audience) => audience.to_owned(),
            Err(DifferentClouds { first, second }) => {
                problems.add(
                    &format!("{}.resource", identity.label()),
                    Fault::Missing {
                        why: Some(format!("{first:?} and {second:?} are in different clouds")),
                        form: "an entry of `identities` for each cloud".to_owned(),
                    },
                );
                PUBLIC.to_owned()
            }
        };
    }
}

/// Two hosts that accept no common audience.
#[derive(Debug, PartialEq, Eq)]
struct DifferentClouds<'h> {
    first: &'h str,
    second: &'h str,
}

/// The audience that all `hosts` accept. A host outside Azure, such as a gateway, accepts any audience.
fn common<'h>(hosts: impl Iterator<Item = &'h str>) -> Result<&'static str, DifferentClouds<'h>> {
    let mut found: Option<(&str, &'static str)> = None;
    for host in hosts {
        let Some(audience) = of_host(host) else {
            continue;
        };
        found = match found {
            Some((first, other)) if other != audience => {
                let is_public = |audience| matches!(audience, PUBLIC | FOUNDRY);
                if !is_public(other) || !is_public(audience) {
                    return Err(DifferentClouds {
                        first,
                        second: host,
                    });
                }
                // Foundry resources accept the audience of Azure OpenAI too; the reverse is not certain.
                Some((first, PUBLIC))
            }
            Some(same) => Some(same),
            None => Some((host, audience)),
        };
    }
    Ok(found.map_or(PUBLIC, |(_, audience)| audience))
}

/// The audience that an Azure host accepts. `None` for hosts outside Azure.
fn of_host(host: &str) -> Option<&'static str> {
    let name = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
    [
        (".services.ai.azure.com", FOUNDRY),
        (".azure.com", PUBLIC),
        (".azure.us", US_GOVERNMENT),
        (".azure.cn", CHINA),
    ]
    .into_iter()
    .find(|(suffix, _)| name.ends_with(suffix))
    .map(|(_, audience)| audience)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audience_follows_the_hosts() {
        for (hosts, audience) in [
            (&["a.openai.azure.com"][..], PUBLIC),
            (&["a.cognitiveservices.azure.com"], PUBLIC),
            (&["A.Services.AI.Azure.com:443"], FOUNDRY),
            (
                &["a.openai.azure.us", "b.cognitiveservices.azure.us"],
                US_GOVERNMENT,
            ),
            (&["a.openai.azure.cn"], CHINA),
            (&["a.services.ai.azure.com", "b.openai.azure.com"], PUBLIC),
            (&["b.openai.azure.com", "a.services.ai.azure.com"], PUBLIC),
            (&["gateway.example.com"], PUBLIC),
            (&["gateway.example.com", "a.openai.azure.us"], US_GOVERNMENT),
            (&[], PUBLIC),
        ] {
            assert_eq!(common(hosts.iter().copied()), Ok(audience), "{hosts:?}");
        }
    }

    #[test]
    fn a_refusal_names_the_audience_and_the_other_one() {
        for (audience, host, other) in [
            (PUBLIC, "a.openai.azure.com", Some(FOUNDRY)),
            (
                "https://ai.azure.com/",
                "a.services.ai.azure.com",
                Some(PUBLIC),
            ),
            (PUBLIC, "a.services.ai.azure.com", Some(FOUNDRY)),
            (PUBLIC, "a.openai.azure.us", Some(US_GOVERNMENT)),
            (US_GOVERNMENT, "a.openai.azure.us", None),
            (
                "https://own.example.com",
                "gateway.example.com",
                Some(PUBLIC),
            ),
        ] {
            let text = new_token_refused(audience, host);
            let named = format!(
                "(401): its audience is {}; ",
                audience.trim_end_matches('/')
            );
            assert!(text.contains(&named), "{text}");
            match other {
                Some(other) => assert!(text.contains(&format!("expects {other}, set")), "{text}"),
                None => assert!(text.ends_with("; check the resource's tenant"), "{text}"),
            }
        }
    }

    #[test]
    fn the_authority_follows_the_audience() {
        for (audience, authority) in [
            (PUBLIC, "login.microsoftonline.com"),
            (FOUNDRY, "login.microsoftonline.com"),
            (US_GOVERNMENT, "login.microsoftonline.us"),
            ("https://ai.azure.us/", "login.microsoftonline.us"),
            (CHINA, "login.partner.microsoftonline.cn"),
        ] {
            assert_eq!(authority_for(audience), authority, "{audience}");
        }
    }

    #[test]
    fn hosts_of_different_clouds_have_no_common_audience() {
        for (first, second) in [
            ("a.openai.azure.com", "b.openai.azure.us"),
            ("a.openai.azure.us", "b.services.ai.azure.com"),
            ("a.openai.azure.cn", "b.openai.azure.us"),
        ] {
            let hosts = [first, "gateway.example.com", second];
            assert_eq!(
                common(hosts.into_iter()),
                Err(DifferentClouds { first, second })
            );
        }
    }
}
