//! Certificates for tests of TLS.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rpc_runtime::{ClientTls, ServerTls};

/// A day, in seconds.
pub const DAY: i64 = 24 * 60 * 60;

/// The time in this many seconds, in the form of certificates.
pub fn from_now(seconds: i64) -> time::OffsetDateTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seconds = now.checked_add_signed(seconds).unwrap();
    date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new authority with its own root certificate.
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its root certificate, in PEM.
    pub fn roots(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key.
    pub fn issue(&self, params: &CertificateParams) -> Pem {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Pem { certificate, key: key.serialize_pem() }
    }

    /// A revocation list in PEM with these serial numbers, which expires in this many seconds.
    pub fn crl(&self, serials: &[u64], seconds: i64) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: from_now(-DAY),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: from_now(-2 * DAY),
            next_update: from_now(seconds),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A certificate for a server at `localhost` and `127.0.0.1`.
    pub fn server(&self) -> ServerTls {
        self.issue(&params("server", &["localhost", "127.0.0.1"])).server()
    }

    /// Client settings that trust this authority.
    pub fn client(&self) -> ClientTls {
        ClientTls::roots_pem(self.roots().as_bytes()).unwrap()
    }
}

/// A certificate to be issued, for this subject and these names.
pub fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Pem {
    /// A server with this certificate.
    pub fn server(&self) -> ServerTls {
        ServerTls::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    /// A client with this certificate.
    pub fn of(&self, client: ClientTls) -> ClientTls {
        client.identity_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}
