//! The `tls-server-end-point` channel binding of RFC 5929: the server's certificate, hashed with the hash of its own
//! signature algorithm. SCRAM-SHA-256-PLUS proves with it that nobody sits between the two ends of TLS.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// The binding for a certificate in DER form. `None` where its signature names no hash (Ed25519): the RFC defines
/// no binding then.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(digest(signature_hash(certificate)?, certificate).as_ref().to_vec())
}

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
const NIST_HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, parameters }, … }`.
fn signature_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    let (certificate, _) = element(0x30, certificate)?;
    let (_, rest) = element(0x30, certificate)?;
    let (algorithm, _) = element(0x30, rest)?;
    let (oid, parameters) = element(0x06, algorithm)?;
    if let Some(kind) = oid.strip_prefix(RSA) {
        return match kind {
            // MD5 and SHA-1 count as SHA-256, says the RFC.
            [4] | [5] | [11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            [10] => pss_hash(parameters),
            _ => None,
        };
    }
    match oid.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

/// `RSASSA-PSS-params ::= SEQUENCE { [0] hashAlgorithm SEQUENCE { OID, … } DEFAULT sha1, … }`.
fn pss_hash(parameters: &[u8]) -> Option<&'static Algorithm> {
    let (parameters, _) = element(0x30, parameters)?;
    let Some((tagged, _)) = element(0xa0, parameters) else {
        return Some(&SHA256);
    };
    let (algorithm, _) = element(0x30, tagged)?;
    let (oid, _) = element(0x06, algorithm)?;
    match oid.strip_prefix(NIST_HASH)? {
        [1] => Some(&SHA256),
        [2] => Some(&SHA384),
        [3] => Some(&SHA512),
        _ => None,
    }
}

/// The content of the DER element at the front, if it has this tag, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        [&[tag, 0x82, (content.len() >> 8) as u8, content.len() as u8][..], &content].concat()
    }

    fn certificate(oid: &[&[u8]], parameters: &[u8]) -> Vec<u8> {
        let oid = sequence(0x06, oid);
        sequence(0x30, &[&sequence(0x30, &[&[0; 300]]), &sequence(0x30, &[&oid, parameters])])
    }

    #[test]
    fn the_hash_is_that_of_the_signature_and_at_least_sha_256() {
        let length = |der: &[u8]| tls_server_end_point(der).map(|binding| binding.len());
        assert_eq!(length(&certificate(&[RSA, &[5]], &[5, 0])), Some(32));
        assert_eq!(length(&certificate(&[RSA, &[11]], &[5, 0])), Some(32));
        assert_eq!(length(&certificate(&[RSA, &[13]], &[5, 0])), Some(64));
        assert_eq!(length(&certificate(&[ECDSA, &[3, 3]], &[])), Some(48));
        assert_eq!(length(&certificate(&[ECDSA, &[3, 4]], &[])), Some(64));
        assert_eq!(length(&certificate(&[&[0x2b, 0x65, 0x70]], &[])), None, "Ed25519 has none");
        let hash = sequence(0x30, &[&sequence(0x06, &[NIST_HASH, &[2]])]);
        let pss = sequence(0x30, &[&sequence(0xa0, &[&hash])]);
        assert_eq!(length(&certificate(&[RSA, &[10]], &pss)), Some(48));
        assert_eq!(length(&certificate(&[RSA, &[10]], &sequence(0x30, &[]))), Some(32));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = certificate(&[RSA, &[11]], &[5, 0]);
        for end in 0..whole.len() {
            tls_server_end_point(&whole[..end]);
        }
        assert_eq!(tls_server_end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
    }
}
