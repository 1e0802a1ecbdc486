//! Deployments: the same addresses whoever runs it again, roles with delays, and a check that sees what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use alloy::{
    primitives::{Address, B256},
    providers::{DynProvider, Provider},
};
use serde_json::json;
use tidemark::{
    chain::Deployment,
    contracts::{Authority, LicenseRegistry, ProvenanceLog},
    deploy::{self, CREATE2_PROXY, DeployError, PAUSER, Roles},
};
use tidemark_tests::{
    Options, Stack,
    anvil::Anvil,
    chain::Mining,
    folder::{self, RunFolder},
    keys::{dev_address, dev_signer, role},
    mined,
    stack::Services,
    story::transactions::why,
};

fn roles() -> Roles {
    Roles {
        admin: Address::repeat_byte(0xad),
        pauser: dev_address(role::SPONSOR).unwrap(),
        arbiter: Address::repeat_byte(0xab),
        guardian: Address::repeat_byte(0x60),
    }
}

async fn chain() -> anyhow::Result<(Stack, DynProvider)> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await?;
    stack.chain.mine_at_once().await?;
    let sender = stack.sender(role::DEPLOYER).await?;
    Ok((stack, sender))
}

async fn deploy_with_roles(sender: &DynProvider) -> Result<Deployment, DeployError> {
    let deployer = dev_address(role::DEPLOYER).unwrap();
    deploy::deploy(sender, deployer, B256::repeat_byte(1), Some(roles())).await
}

async fn failures(reader: &DynProvider, deployment: &Deployment) -> anyhow::Result<Vec<&'static str>> {
    let report = deploy::check(reader, deployment).await?;
    assert_eq!(report.verified, report.checks.iter().all(|check| check.ok));
    Ok(report.checks.iter().filter(|check| !check.ok).map(|check| check.name).collect())
}

#[tokio::test]
async fn a_second_run_finds_everything_and_changes_nothing() -> anyhow::Result<()> {
    let (stack, sender) = chain().await?;
    let first = deploy_with_roles(&sender).await?;
    assert!(failures(stack.provider(), &first).await?.is_empty());
    let block = stack.provider().get_block_number().await?;
    let second = deploy_with_roles(&sender).await?;
    assert_eq!(stack.provider().get_block_number().await?, block, "nothing was sent");
    assert_eq!(Deployment { block: first.block, ..second }, first);
    assert_ne!(first.provenance_log, stack.deployment.provenance_log, "another salt, other addresses");
    Ok(())
}

#[tokio::test]
async fn the_roles_hold_and_the_deployer_has_let_go() -> anyhow::Result<()> {
    let (stack, deployer) = chain().await?;
    let deployment = deploy_with_roles(&deployer).await?;
    let pauser = stack.sender(role::SPONSOR).await?;

    let refused = ProvenanceLog::new(deployment.provenance_log, &deployer).pause().send().await.unwrap_err();
    assert!(why(&refused).contains("AccessManagedUnauthorized"), "{}", why(&refused));
    mined!("pause", ProvenanceLog::new(deployment.provenance_log, &pauser).pause());
    mined!("pause", LicenseRegistry::new(deployment.license_registry, &pauser).pause());
    assert!(ProvenanceLog::new(deployment.provenance_log, stack.provider()).paused().call().await?);
    mined!("unpause", ProvenanceLog::new(deployment.provenance_log, &pauser).unpause());

    let authority = Authority::new(deployment.authority, &deployer);
    let me = dev_address(role::DEPLOYER)?;
    assert!(authority.grantRole(PAUSER, me, 0).send().await.is_err(), "the deployer grants nothing any more");
    Ok(())
}

#[tokio::test]
async fn the_check_sees_other_code_another_role_and_another_address() -> anyhow::Result<()> {
    let (stack, sender) = chain().await?;
    let good = deploy_with_roles(&sender).await?;
    let reader = stack.provider();

    let moved = Deployment { ip_registry: good.license_registry, ..good.clone() };
    assert!(failures(reader, &moved).await?.contains(&"IPRegistry"));
    let kept = Roles { pauser: Address::repeat_byte(9), ..roles() };
    assert_eq!(failures(reader, &Deployment { roles: Some(kept), ..good.clone() }).await?, ["pauser"]);

    let code = reader.get_code_at(good.consent_registry).await?;
    stack.chain.call("anvil_setCode", json!([good.consent_registry, "0x00"])).await?;
    assert_eq!(failures(reader, &good).await?, ["ConsentRegistry"]);
    stack.chain.call("anvil_setCode", json!([good.consent_registry, code])).await?;
    assert!(failures(reader, &good).await?.is_empty());

    let elsewhere = Deployment { authority: stack.deployment.authority, ..good.clone() };
    let seen = failures(reader, &elsewhere).await?;
    assert!(seen.contains(&"Authority") && seen.contains(&"Disputes.rule"), "no role is given there: {seen:?}");

    let deployer = dev_address(role::DEPLOYER)?;
    let kept = deploy::deploy(&sender, deployer, B256::repeat_byte(5), None).await?;
    let said = Deployment { roles: Some(roles()), ..kept };
    assert!(failures(reader, &said).await?.contains(&"deployer"), "it is still the admin");
    Ok(())
}

#[tokio::test]
async fn a_chain_without_the_create2_proxy_gets_it_first() -> anyhow::Result<()> {
    tidemark::install_tls();
    // a chain of its own, as on the stack's the proxy has deployed already, and its nonce says so
    let folder = RunFolder::create()?;
    let anvil = Anvil::start(&folder, Mining::Automatic, 1).await?;
    anvil.call("anvil_setCode", json!([CREATE2_PROXY, "0x"])).await?;
    assert!(anvil.provider().get_code_at(CREATE2_PROXY).await?.is_empty());
    anvil.fund(dev_address(role::DEPLOYER)?).await?;
    let sender = tidemark::chain::sender(anvil.url(), dev_signer(role::DEPLOYER)?)?;
    let deployment = deploy_with_roles(&sender).await?;
    assert!(failures(anvil.provider(), &deployment).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_command_writes_a_file_and_checks_it() -> anyhow::Result<()> {
    let (stack, _) = chain().await?;
    let out = stack.deployment_path().with_file_name("deployed.json");
    let key = stack.key_file(role::DEPLOYER);
    let tidemark = |arguments: &[&str]| {
        let program = folder::program("tidemark").unwrap();
        let said = Command::new(program).args(arguments).args(["--rpc-url", stack.chain.url()]).output().unwrap();
        (
            said.status.code(),
            String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr),
        )
    };
    let (key, out) = (key.to_str().unwrap(), out.to_str().unwrap());
    let salt = B256::repeat_byte(2).to_string();
    let (status, said) = tidemark(&["deploy", "--key-file", key, "--out", out, "--salt", &salt]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("for development only"), "{said}");
    let (status, said) = tidemark(&["deploy", "--key-file", key, "--out", out, "--admin", &Address::ZERO.to_string()]);
    assert_eq!(status, Some(2), "an admin without the other roles: {said}");
    let (status, said) = tidemark(&["verify", "deployment", "--deployment", out]);
    assert_eq!(status, Some(0), "{said}");

    let text = std::fs::read_to_string(out)?;
    let mut spoiled: serde_json::Value = serde_json::from_str(&text)?;
    spoiled["code"]["Renderer"]["hash"] = B256::repeat_byte(3).to_string().into();
    std::fs::write(out, spoiled.to_string())?;
    let (status, said) = tidemark(&["verify", "deployment", "--deployment", out]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("Renderer: code hash"), "{said}");
    Ok(())
}
