// SPDX-License-Identifier: MIT OR Apache-2.0
// ConsentRegistry: who may withdraw a consent, and that it happens once and for good.
pragma solidity ^0.8.28;

import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {Consent, IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract ConsentRegistryTest is Fixture {
    function consentOf(address contributor) private view returns (Consent memory) {
        return Consent({
            contributor: contributor,
            provider: provider,
            policyHash: keccak256("policy"),
            purposes: 1,
            dataTypes: 1,
            territory: keccak256("KR"),
            validFrom: uint64(NOW),
            validUntil: uint64(NOW + 365 days),
            nonce: 42
        });
    }

    function test_RevertWhen_PolicyHashIsZero() external {
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.PolicyHashZero.selector));
        consents.publishPolicy(0, "1", "ipfs://policy");
    }

    function test_RevertWhen_PolicyExists() external {
        consents.publishPolicy("policy", "1", "ipfs://policy");
        vm.expectRevert(
            abi.encodeWithSelector(IConsentRegistry.PolicyExists.selector, address(this), bytes32("policy"))
        );
        consents.publishPolicy("policy", "2", "ipfs://policy");
    }

    function test_WhenPublished_ItIsTheCallersPolicyOnly() external {
        vm.expectEmit(address(consents));
        emit IConsentRegistry.PolicyPublished(provider, "policy", "1", "ipfs://policy");
        vm.prank(provider);
        consents.publishPolicy("policy", "1", "ipfs://policy");
        assertEq(consents.policyPublishedAt(provider, "policy"), NOW);
        assertEq(consents.policyPublishedAt(stranger, "policy"), 0);
    }

    function test_RevertWhen_AStrangerWithdraws() external {
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.OnlyContributorOrProvider.selector, stranger));
        vm.prank(stranger);
        consents.withdraw(consentOf(payee));
    }

    function test_RevertWhen_WithdrawnTwice() external {
        vm.prank(payee);
        bytes32 consentId = consents.withdraw(consentOf(payee));
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AlreadyWithdrawn.selector, consentId));
        vm.prank(provider);
        consents.withdraw(consentOf(payee));
    }

    function test_WhenContributorOrProviderWithdraws() external {
        for (uint256 i = 0; i < 2; ++i) {
            Consent memory consent = consentOf(payee);
            consent.nonce = i;
            address by = i == 0 ? payee : provider;
            bytes32 consentId = consents.consentIdOf(consent);
            vm.expectEmit(address(consents));
            emit IConsentRegistry.ConsentWithdrawn(consentId, provider, by);
            vm.prank(by);
            consents.withdraw(consent);
            assertEq(consents.withdrawnAt(consentId), NOW);
        }
    }

    function test_RevertWhen_SomebodyElseSignedTheWithdrawal() external {
        Consent memory consent = consentOf(payee);
        bytes32 digest = consents.withdrawalDigestOf(consents.consentIdOf(consent));
        bytes memory signature = sign(keyOf("stranger"), digest);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.SignatureInvalid.selector, payee, digest));
        consents.withdrawBySignature(consent, signature);
    }

    function test_RevertWhen_TheConsentsOwnSignatureIsUsed() external {
        Consent memory consent = consentOf(payee);
        bytes32 consentId = consents.consentIdOf(consent);
        bytes memory signature = sign(keyOf("payee"), consentId);
        bytes32 digest = consents.withdrawalDigestOf(consentId);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.SignatureInvalid.selector, payee, digest));
        consents.withdrawBySignature(consent, signature);
    }

    function test_WhenAnyoneCarriesTheContributorsSignature() external {
        Consent memory consent = consentOf(payee);
        bytes32 consentId = consents.consentIdOf(consent);
        bytes memory signature = sign(keyOf("payee"), consents.withdrawalDigestOf(consentId));
        vm.expectEmit(address(consents));
        emit IConsentRegistry.ConsentWithdrawn(consentId, provider, payee);
        vm.prank(stranger);
        consents.withdrawBySignature(consent, signature);
        assertEq(consents.withdrawnAt(consentId), NOW);
    }

    function test_WhenContributorIsAContract() external {
        address[] memory members = new address[](1);
        members[0] = payee;
        Consent memory consent = consentOf(address(new AttestorQuorum(members, 1)));
        bytes32 consentId = consents.consentIdOf(consent);
        consents.withdrawBySignature(consent, sign(keyOf("payee"), consents.withdrawalDigestOf(consentId)));
        assertEq(consents.withdrawnAt(consentId), NOW);
    }

    function test_ConsentIdIsEip712() external view {
        Consent memory c = consentOf(payee);
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tidemark ConsentRegistry"),
                keccak256("1"),
                block.chainid,
                address(consents)
            )
        );
        bytes32 typehash = keccak256(
            "Consent(address contributor,address provider,bytes32 policyHash,uint32 purposes,uint32 dataTypes,bytes32 territory,uint64 validFrom,uint64 validUntil,uint256 nonce)"
        );
        bytes32 hash = keccak256(
            abi.encode(
                typehash,
                c.contributor,
                c.provider,
                c.policyHash,
                c.purposes,
                c.dataTypes,
                c.territory,
                c.validFrom,
                c.validUntil,
                c.nonce
            )
        );
        assertEq(consents.consentIdOf(c), keccak256(abi.encodePacked(hex"1901", domain, hash)));
    }
}
