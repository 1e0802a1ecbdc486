// SPDX-License-Identifier: MIT OR Apache-2.0
// ConsentRegistry: who may withdraw a consent, and that it happens once and for good.
pragma solidity ^0.8.28;

import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {ConsentRegistry} from "../src/ConsentRegistry.sol";
import {Consent, IConsentRegistry} from "../interfaces/IConsentRegistry.sol";
import {Deploy} from "./Deploy.sol";
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

    function testFuzz_RevertWhen_AStrangerWithdraws(address caller) external {
        vm.assume(caller != payee && caller != provider);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.OnlyContributorOrProvider.selector, caller));
        vm.prank(caller);
        consents.withdraw(consentOf(payee));
    }

    /// Who names himself the provider withdraws a consent that nobody gave.
    function test_WhenAStrangerNamesHimself_TheConsentStands() external {
        Consent memory consent = consentOf(payee);
        bytes32 consentId = consents.consentIdOf(consent);
        consent.provider = stranger;
        vm.prank(stranger);
        assertTrue(consents.withdraw(consent) != consentId);
        assertEq(consents.withdrawnAt(consentId), 0);
    }

    /// P3
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

    function expectSignatureInvalid(ConsentRegistry registry, Consent memory consent, bytes memory signature) private {
        bytes32 digest = registry.withdrawalDigestOf(registry.consentIdOf(consent));
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.SignatureInvalid.selector, consent.contributor, digest));
        registry.withdrawBySignature(consent, signature);
    }

    function withdrawalBy(string memory who, Consent memory consent) private view returns (bytes memory) {
        return sign(keyOf(who), consents.withdrawalDigestOf(consents.consentIdOf(consent)));
    }

    function test_RevertWhen_TheProviderSignedTheWithdrawal() external {
        Consent memory consent = consentOf(payee);
        expectSignatureInvalid(consents, consent, withdrawalBy("provider", consent));
    }

    function testFuzz_RevertWhen_TheSignatureIsGarbage(bytes calldata garbage) external {
        expectSignatureInvalid(consents, consentOf(payee), garbage);
    }

    /// What ecrecover answers to garbage is no contributor.
    function test_RevertWhen_TheContributorIsZero() external {
        expectSignatureInvalid(consents, consentOf(address(0)), new bytes(65));
        expectSignatureInvalid(consents, consentOf(address(0)), "");
    }

    /// P16
    function test_RevertWhen_TheSignatureIsMalleated() external {
        Consent memory consent = consentOf(payee);
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(keyOf("payee"), consents.withdrawalDigestOf(consents.consentIdOf(consent)));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes32 high = bytes32(order - uint256(s));
        expectSignatureInvalid(consents, consent, abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)));
        expectSignatureInvalid(consents, consent, abi.encodePacked(r, s, v - 27));
    }

    /// P16
    function test_RevertWhen_SignedForAnotherConsent() external {
        Consent memory consent = consentOf(payee);
        bytes memory signature = withdrawalBy("payee", consent);
        consent.nonce += 1;
        expectSignatureInvalid(consents, consent, signature);
    }

    /// P16
    function test_RevertWhen_SignedForAnotherChain() external {
        Consent memory consent = consentOf(payee);
        bytes memory signature = withdrawalBy("payee", consent);
        vm.chainId(8453);
        expectSignatureInvalid(consents, consent, signature);
    }

    /// P16
    function test_RevertWhen_SignedForAnotherRegistry() external {
        Consent memory consent = consentOf(payee);
        expectSignatureInvalid(Deploy.consentRegistry(), consent, withdrawalBy("payee", consent));
    }

    /// P3
    function test_RevertWhen_TheSignatureIsReplayed() external {
        Consent memory consent = consentOf(payee);
        bytes memory signature = withdrawalBy("payee", consent);
        bytes32 consentId = consents.withdrawBySignature(consent, signature);
        vm.warp(NOW + 1);
        vm.expectRevert(abi.encodeWithSelector(IConsentRegistry.AlreadyWithdrawn.selector, consentId));
        consents.withdrawBySignature(consent, signature);
        assertEq(consents.withdrawnAt(consentId), NOW);
    }

    function test_RevertWhen_AContractContributorRefuses() external {
        address[] memory members = new address[](1);
        members[0] = payee;
        Consent memory consent = consentOf(address(Deploy.attestorQuorum(members, 1)));
        expectSignatureInvalid(consents, consent, withdrawalBy("stranger", consent));
    }

    /// EIP-7702: an account that runs code without ERC-1271 still withdraws with its key.
    function test_WhenTheContributorRunsCode_ItsKeySignsAllTheSame() external {
        Consent memory consent = consentOf(payee);
        bytes memory signature = withdrawalBy("payee", consent);
        vm.etch(payee, hex"00");
        bytes32 consentId = consents.withdrawBySignature(consent, signature);
        assertEq(consents.withdrawnAt(consentId), NOW);
    }

    /// Another spelling of a consent would be another id.
    function testFuzz_RevertWhen_AWordHasDirtyUpperBits(uint8 dirt, uint256 field) external {
        bytes memory data = abi.encodeCall(consents.withdraw, (consentOf(payee)));
        uint256 word = [uint256(0), 1, 3, 4, 6, 7][field % 6];
        data[4 + 32 * word] = bytes1(uint8(bound(dirt, 1, 255)));
        vm.prank(payee);
        (bool ok,) = address(consents).call(data);
        assertFalse(ok);
    }

    function testFuzz_WhenAFieldDiffers_SoDoesTheId(uint256 field) external view {
        Consent memory consent = consentOf(payee);
        bytes32 consentId = consents.consentIdOf(consent);
        bytes memory words = abi.encode(consent);
        words[32 * (field % 9) + 31] ^= 0x01;
        assertTrue(consents.consentIdOf(abi.decode(words, (Consent))) != consentId);
    }

    function test_WithdrawalDigestIsEip712() external view {
        bytes32 hash = keccak256(abi.encode(keccak256("Withdrawal(bytes32 consentId)"), bytes32("consent")));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", domainOf(consents), hash));
        assertEq(consents.withdrawalDigestOf("consent"), digest);
    }

    function domainOf(ConsentRegistry registry) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tidemark ConsentRegistry"),
                keccak256("1"),
                block.chainid,
                address(registry)
            )
        );
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
        Consent memory consent = consentOf(address(Deploy.attestorQuorum(members, 1)));
        bytes32 consentId = consents.consentIdOf(consent);
        consents.withdrawBySignature(consent, sign(keyOf("payee"), consents.withdrawalDigestOf(consentId)));
        assertEq(consents.withdrawnAt(consentId), NOW);
    }

    function test_ConsentIdIsEip712() external view {
        Consent memory c = consentOf(payee);
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
        assertEq(consents.consentIdOf(c), keccak256(abi.encodePacked(hex"1901", domainOf(consents), hash)));
    }
}
