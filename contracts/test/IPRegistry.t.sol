// SPDX-License-Identifier: MIT OR Apache-2.0
// IPRegistry: attested versions, withdrawn members, contributions registered by who made them.
pragma solidity ^0.8.28;

import {Consent} from "../interfaces/IConsentRegistry.sol";
import {IIPRegistry, Member, Version, VersionContent} from "../interfaces/IIPRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

abstract contract DatasetFixture is Fixture {
    Member[] internal _members;

    function setUp() public virtual override {
        super.setUp();
        _members.push(aMember(0, payee, 30));
        _members.push(aMember(1, address(0), 50));
        _members.push(aMember(2, stranger, 20));
    }
}

contract RegisterDatasetTest is DatasetFixture {
    function registerNamed(string memory name) private returns (uint256 ipId) {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ips.datasetIdOf(provider, name), 1, content);
        vm.prank(provider);
        return ips.registerDataset(name, content, signature);
    }

    function expectNameInvalid(string memory name) private {
        VersionContent memory content = contentOf(_members);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.NameInvalid.selector, name));
        vm.prank(provider);
        ips.registerDataset(name, content, "");
    }

    function test_RevertWhen_NameIsEmptyOrTooLong() external {
        expectNameInvalid("");
        expectNameInvalid(string(new bytes(65)));
    }

    function test_RevertWhen_DatasetExists() external {
        uint256 ipId = registerNamed("voices");
        VersionContent memory content = contentOf(_members);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.DatasetExists.selector, ipId));
        vm.prank(provider);
        ips.registerDataset("voices", content, "");
    }

    function test_RevertWhen_CallerIsNoProvider() external {
        VersionContent memory content = contentOf(_members);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ProviderUnknown.selector, stranger));
        vm.prank(stranger);
        ips.registerDataset("voices", content, "");
    }

    function test_RevertWhen_TheContentIsMalformed() external {
        uint256 ipId = ips.datasetIdOf(provider, "voices");
        for (uint256 i = 0; i < 6; ++i) {
            VersionContent memory content = contentOf(_members);
            if (i == 0) content.root = 0;
            if (i == 1) content.memberCount = 0;
            if (i == 2) (content.totalWeight, content.pointsWeight) = (0, 0);
            if (i == 3) content.pointsWeight = content.totalWeight + 1;
            if (i == 4) content.manifestCid = "";
            if (i == 5) content.manifestCid = new bytes(65);
            bytes memory signature = attest(ipId, 1, content);
            vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionInvalid.selector));
            vm.prank(provider);
            ips.registerDataset("voices", content, signature);
        }
    }

    function test_RevertWhen_SomebodyElseAttested() external {
        VersionContent memory content = contentOf(_members);
        bytes32 digest = ips.digestOf(ips.datasetIdOf(provider, "voices"), 1, content);
        bytes memory signature = sign(keyOf("stranger"), digest);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, attestor, digest));
        vm.prank(provider);
        ips.registerDataset("voices", content, signature);
    }

    function test_WhenRegistered() external {
        uint256 expected = uint256(keccak256(abi.encode(provider, "voices")));
        VersionContent memory content = contentOf(_members);
        vm.expectEmit(address(ips));
        emit IIPRegistry.DatasetRegistered(expected, provider, "voices");
        vm.expectEmit(address(ips));
        emit IIPRegistry.VersionRegistered(expected, 1, content.root, 3, 100, 50, CID, attestor);
        uint256 ipId = registerNamed("voices");
        assertEq(ipId, expected);
        assertEq(ips.ownerOf(ipId), provider);
        assertEq(ips.providerOf(ipId), provider);
        assertEq(ips.nameOf(ipId), "voices");
        assertEq(ips.latestVersionOf(ipId), 1);
        Version memory version = ips.versionOf(ipId, 1);
        assertEq(version.root, content.root);
        assertEq(version.memberCount, 3);
        assertEq(version.totalWeight, 100);
        assertEq(version.pointsWeight, 50);
        assertEq(version.registeredAt, NOW);
        assertFalse(version.withdrawn);
    }

    function test_WhenTheTokenIsSold_TheProviderStays() external {
        uint256 ipId = registerNamed("voices");
        vm.prank(provider);
        ips.transferFrom(provider, stranger, ipId);
        assertEq(ips.providerOf(ipId), provider);
        assertEq(addVersion(ipId, contentOf(_members)), 2);
    }
}

contract RegisterVersionTest is DatasetFixture {
    uint256 private _ipId;

    function setUp() public override {
        super.setUp();
        _ipId = register(contentOf(_members));
    }

    function test_RevertWhen_DatasetIsUnknown() external {
        VersionContent memory content = contentOf(_members);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.DatasetUnknown.selector, 1));
        vm.prank(provider);
        ips.registerVersion(1, content, "");
    }

    function test_RevertWhen_CallerIsNotItsProvider() external {
        VersionContent memory content = contentOf(_members);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        ips.registerVersion(_ipId, content, "");
    }

    function test_RevertWhen_AnEarlierVersionsAttestationIsReplayed() external {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(_ipId, 1, content);
        bytes32 digest = ips.digestOf(_ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, attestor, digest));
        vm.prank(provider);
        ips.registerVersion(_ipId, content, signature);
    }

    function test_WhenRegistered_OldVersionsStay() external {
        bytes32 root = ips.versionOf(_ipId, 1).root;
        _members.pop();
        assertEq(addVersion(_ipId, contentOf(_members)), 2);
        assertEq(ips.latestVersionOf(_ipId), 2);
        assertEq(ips.versionOf(_ipId, 1).root, root);
        assertEq(ips.versionOf(_ipId, 2).memberCount, 2);
    }
}

contract ReportWithdrawnTest is DatasetFixture {
    uint256 private _ipId;
    Consent private _consent;

    function setUp() public override {
        super.setUp();
        _consent.contributor = payee;
        _consent.provider = provider;
        _members[0].consentId = consents.consentIdOf(_consent);
        _ipId = register(contentOf(_members));
    }

    function test_RevertWhen_VersionIsUnknown() external {
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionUnknown.selector, _ipId, 2));
        ips.reportWithdrawn(_ipId, 2, _members[0], proof);
    }

    function test_RevertWhen_ItIsNoMember() external {
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.MemberUnknown.selector, _ipId, 1, _members[1].dataId));
        ips.reportWithdrawn(_ipId, 1, _members[1], proof);
    }

    function test_RevertWhen_TheConsentStands() external {
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ConsentStands.selector, _members[0].consentId));
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
    }

    function test_WhenTheConsentWasWithdrawn() external {
        vm.prank(payee);
        consents.withdraw(_consent);
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectEmit(address(ips));
        emit IIPRegistry.VersionWithdrawn(_ipId, 1, _members[0].dataId, _members[0].consentId);
        vm.prank(stranger);
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
        assertTrue(ips.versionOf(_ipId, 1).withdrawn);
    }
}

contract RegisterContributionTest is Fixture {
    using StandardMerkleTree for bytes32[];

    ProvenanceEvent[] private _events;

    function setUp() public override {
        super.setUp();
        _events.push(anEvent(0, payee, 0));
        _events.push(anEvent(1, payee, 0));
        _events[1].kind = 2;
        Batch memory batch = aBatch(0);
        batch.root = treeOf(_events)[0];
        batch.eventCount = 2;
        anchor(batch);
    }

    function proof(uint256 i) private view returns (bytes32[] memory) {
        return treeOf(_events).proofOf(log.leafOf(_events[i]));
    }

    function test_RevertWhen_TheEventIsNoAcceptance() external {
        bytes32[] memory path = proof(1);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.NotAccepted.selector, 2));
        vm.prank(payee);
        ips.registerContribution(provider, 0, _events[1], path);
    }

    function test_RevertWhen_CallerIsNotThePayee() external {
        bytes32[] memory path = proof(0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.OnlyPayee.selector, payee, stranger));
        vm.prank(stranger);
        ips.registerContribution(provider, 0, _events[0], path);
    }

    function test_RevertWhen_TheProofIsInvalid() external {
        bytes32[] memory path = proof(1);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ProofInvalid.selector, provider, 0, 0));
        vm.prank(payee);
        ips.registerContribution(provider, 0, _events[0], path);
    }

    function test_RevertWhen_RegisteredTwice() external {
        bytes32[] memory path = proof(0);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, _events[0], path);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ContributionExists.selector, ipId));
        vm.prank(payee);
        ips.registerContribution(provider, 0, _events[0], path);
    }

    function test_WhenRegistered() external {
        bytes32[] memory path = proof(0);
        bytes16 dataId = _events[0].dataId;
        uint256 expected = uint256(keccak256(abi.encode("contribution", provider, dataId)));
        vm.expectEmit(address(ips));
        emit IIPRegistry.ContributionRegistered(expected, provider, 0, dataId, payee);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, _events[0], path);
        assertEq(ipId, expected);
        assertEq(ips.ownerOf(ipId), payee);
        assertEq(ips.providerOf(ipId), address(0));
    }
}
