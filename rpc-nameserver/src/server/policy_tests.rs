use super::super::identity::hash;
use super::*;

/// The hash is that of `t0ken`.
const POLICY: &str = r#"
    [anonymous]
    read = ["public.*"]

    [[identity]]
    name = "orders"
    uri = ["spiffe://example/orders/*"]
    dns = ["orders.example"]
    register = ["Orders", "orders.*"]
    read = ["*"]

    [[identity]]
    name = "admin"
    token_sha256 = ["HASH"]
    remove = ["*"]
    quota = { instances = 7 }
"#;

fn policy() -> Policy {
    let hex: String = hash(b"t0ken").iter().map(|byte| format!("{byte:02X}")).collect();
    Policy::parse(&POLICY.replace("HASH", &hex), Quota::default()).unwrap()
}

fn caller(names: &[CertificateName], token: Option<&str>) -> Caller {
    Caller {
        peer: "tls://10.0.0.1:1".into(),
        names: names.to_vec(),
        token: token.map(|token| hash(token.as_bytes())),
        is_token_exposed: false,
    }
}

fn name(policy: &Policy, names: &[CertificateName]) -> Option<String> {
    policy.identify(&caller(names, None)).unwrap().name.map(|it| it.to_string())
}

#[test]
fn an_identity_has_the_rights_that_the_file_gives_it_and_no_others() {
    let policy = policy();
    let orders = [CertificateName::Uri("spiffe://example/orders/7".into())];
    let orders = policy.identify(&caller(&orders, None)).unwrap();
    assert!(orders.rights.may_register("orders.Cart") && orders.rights.may_register("Orders"));
    assert!(!orders.rights.may_register("Payments") && !orders.rights.may_remove("Orders"));
    let admin = policy.identify(&caller(&[], Some("t0ken"))).unwrap();
    assert!(admin.rights.may_remove("Orders") && !admin.rights.may_read("Orders"));
    assert_eq!(admin.quota.instances, 7);
    let nobody = policy.identify(&caller(&[], None)).unwrap();
    assert!(nobody.rights.may_read("public.A") && !nobody.rights.may_read("Orders"));
    assert!(!nobody.rights.may_register("public.A"));
}

#[test]
fn who_shows_a_wrong_token_is_refused_also_with_a_good_certificate() {
    let good = [CertificateName::Dns("orders.example".into())];
    assert!(matches!(policy().identify(&caller(&good, Some("x"))), Err(NameError::Denied(_))));
    let exposed = Caller { is_token_exposed: true, ..caller(&good, Some("t0ken")) };
    assert!(matches!(policy().identify(&exposed), Err(NameError::Denied(_))));
}

#[test]
fn a_name_counts_only_as_what_it_is() {
    let policy = policy();
    assert!(name(&policy, &[CertificateName::Dns("orders.example".into())]).is_some());
    assert!(name(&policy, &[CertificateName::Dns("Orders.Example".into())]).is_some());
    for other in [
        CertificateName::Dns("spiffe://example/orders/7".into()),
        CertificateName::Uri("orders.example".into()),
        CertificateName::Subject("orders.example".into()),
        CertificateName::Dns("orders.example.org".into()),
    ] {
        assert_eq!(name(&policy, &[other]), None);
    }
}

#[test]
fn one_kind_of_name_does_not_pass_for_another() {
    let open = Policy::open(Quota::default());
    let uri = |uri: &str| name(&open, &[CertificateName::Uri(uri.into())]);
    assert_ne!(uri("dns:a"), name(&open, &[CertificateName::Dns("a".into())]));
    assert_ne!(uri("subject:CN=a"), name(&open, &[CertificateName::Subject("CN=a".into())]));
    // The same host is the same client.
    assert_eq!(
        name(&open, &[CertificateName::Dns("A".into())]),
        name(&open, &[CertificateName::Dns("a".into())])
    );
    // Nor for a token.
    let both = "[[identity]]\nname = \"x\"\nuri = [\"*\"]\ntoken_sha256 = [\"HASH\"]";
    let hex: String = hash(b"t0ken").iter().map(|byte| format!("{byte:02x}")).collect();
    let both = Policy::parse(&both.replace("HASH", &hex), Quota::default()).unwrap();
    let token = both.identify(&caller(&[], Some("t0ken"))).unwrap().name.unwrap().to_string();
    assert_ne!(name(&both, &[CertificateName::Uri("token".into())]), Some(token));
}

#[test]
fn two_workloads_of_one_pattern_are_two() {
    let of =
        |n: &str| name(&policy(), &[CertificateName::Uri(format!("spiffe://example/orders/{n}"))]);
    assert_ne!(of("1"), of("2"));
}

#[test]
fn without_a_policy_a_certificate_is_a_name() {
    let open = Policy::open(Quota::default());
    assert_eq!(name(&open, &[CertificateName::Dns("a".into())]).as_deref(), Some("dns:a"));
    assert_eq!(name(&open, &[]), None);
    assert!(open.identify(&caller(&[], Some("any"))).unwrap().rights.may_register("x"));
    assert!(!open.identify(&caller(&[], None)).unwrap().rights.may_remove("x"));
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    for (text, mention) in [
        ("", "it is empty"),
        ("identity = 1", "invalid type"),
        ("[[identity]]\nname = \"a\"\n", "no client can authenticate"),
        ("[[identity]]\nname = \"a\"\ntoken_sha256 = [\"12\"]", "64 hexadecimal digits"),
        ("[[identity]]\nname = \"a\"\nreads = []\ndns = [\"a\"]", "reads"),
        ("[[identity]]\nname = \"\"\ndns = [\"a\"]", "1 to 255 bytes"),
        ("[[identity]]\nname = \"a\"\ndns = [\"\"]", "1 to 255 bytes"),
        ("[anonymous]\nremove = [\"*\"]", "remove"),
        ("[[identity]]\nname=\"a\"\ndns=[\"a\"]\n[[identity]]\nname=\"a\"\ndns=[\"b\"]", "twice"),
    ] {
        let error = Policy::parse(text, Quota::default()).unwrap_err();
        assert!(error.contains(mention), "{error} does not say {mention:?}");
    }
}
