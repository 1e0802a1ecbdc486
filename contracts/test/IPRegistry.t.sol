// SPDX-License-Identifier: MIT OR Apache-2.0
// IPRegistry: attested versions, withdrawn members, contributions registered by who made them, tokens that never move.
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC4906} from "@openzeppelin/contracts/interfaces/IERC4906.sol";
import {IERC721} from "@openzeppelin/contracts/interfaces/IERC721.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {IERC5192} from "../interfaces/IERC5192.sol";
import {IIPRegistry, Member, Sale, Version, VersionContent} from "../interfaces/IIPRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {IPRegistry} from "../src/IPRegistry.sol";
import {Renderer} from "../src/Renderer.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";
import {Vm} from "./Vm.sol";

abstract contract DatasetFixture is Fixture {
    Member[] internal _members;

    function setUp() public virtual override {
        super.setUp();
        _members.push(aMember(0, payee, 30));
        _members.push(aMember(1, address(0), 50));
        _members.push(aMember(2, stranger, 20));
    }

    /// @dev Registers as any provider whose attestor is the fixture's.
    function registerAs(address who, string memory name, VersionContent memory content) internal returns (uint256) {
        bytes memory signature = attest(ips.datasetIdOf(who, name), 1, content);
        vm.prank(who);
        return ips.registerDataset(name, content, signature);
    }

    /// @dev How many of the logs recorded since the last call are this event of this contract.
    function countLogs(address emitter, bytes32 topic) internal returns (uint256 count) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == emitter && logs[i].topics[0] == topic) ++count;
        }
    }
}

contract RegisterDatasetTest is DatasetFixture {
    function registerNamed(string memory name) private returns (uint256 ipId) {
        return registerAs(provider, name, contentOf(_members));
    }

    function expectNameInvalid(string memory name) private {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ips.datasetIdOf(provider, name), 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.NameInvalid.selector, name));
        vm.prank(provider);
        ips.registerDataset(name, content, signature);
    }

    /// @dev Where what is sent is not what was signed.
    function expectAttestationInvalid(VersionContent memory content, bytes memory signature) private {
        bytes32 digest = ips.digestOf(ips.datasetIdOf(provider, "voices"), 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, attestor, digest));
        vm.prank(provider);
        ips.registerDataset("voices", content, signature);
    }

    function expectVersionInvalid(VersionContent memory content) private {
        bytes memory signature = attest(ips.datasetIdOf(provider, "voices"), 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionInvalid.selector));
        vm.prank(provider);
        ips.registerDataset("voices", content, signature);
    }

    function test_RevertWhen_NameIsEmptyOrTooLong() external {
        expectNameInvalid("");
        expectNameInvalid(string(new bytes(65)));
    }

    function testFuzz_WhenTheNameIsShortEnough(string memory name) external {
        vm.assume(bytes(name).length > 0 && bytes(name).length <= 64);
        assertEq(ips.nameOf(registerNamed(name)), name);
    }

    function test_WhenTheNameIsOneOr64BytesLong() external {
        registerNamed("v");
        registerNamed(string(new bytes(64)));
    }

    function test_RevertWhen_DatasetExists() external {
        uint256 ipId = registerNamed("voices");
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.DatasetExists.selector, ipId));
        vm.prank(provider);
        ips.registerDataset("voices", content, signature);
    }

    function test_RevertWhen_CallerIsNoProvider() external {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ips.datasetIdOf(stranger, "voices"), 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ProviderUnknown.selector, stranger));
        vm.prank(stranger);
        ips.registerDataset("voices", content, signature);
    }

    function test_RevertWhen_TheRootIsZero() external {
        VersionContent memory content = contentOf(_members);
        content.root = 0;
        expectVersionInvalid(content);
    }

    function test_RevertWhen_ThereAreNoMembers() external {
        VersionContent memory content = contentOf(_members);
        content.memberCount = 0;
        expectVersionInvalid(content);
    }

    function test_RevertWhen_TheTotalWeightIsZero() external {
        VersionContent memory content = contentOf(_members);
        (content.totalWeight, content.pointsWeight) = (0, 0);
        expectVersionInvalid(content);
    }

    function testFuzz_RevertWhen_TheTotalWeightIsAbove96Bits(uint128 excess) external {
        VersionContent memory content = contentOf(_members);
        content.totalWeight = uint128(bound(excess, 1 << 96, type(uint128).max));
        expectVersionInvalid(content);
    }

    function testFuzz_RevertWhen_ThePointsWeightIsAboveTheTotal(uint128 weight) external {
        VersionContent memory content = contentOf(_members);
        content.pointsWeight = uint128(bound(weight, uint256(content.totalWeight) + 1, type(uint128).max));
        expectVersionInvalid(content);
    }

    function test_RevertWhen_TheManifestCidIsEmptyOrTooLong() external {
        VersionContent memory content = contentOf(_members);
        content.manifestCid = "";
        expectVersionInvalid(content);
        content.manifestCid = new bytes(65);
        expectVersionInvalid(content);
    }

    function test_WhenTheContentIsAtItsLimits() external {
        VersionContent memory content = contentOf(_members);
        content.memberCount = type(uint32).max;
        (content.totalWeight, content.pointsWeight) = (type(uint96).max, type(uint96).max);
        content.purposes = type(uint32).max;
        content.manifestCid = new bytes(64);
        uint256 ipId = registerAs(provider, "voices", content);
        Version memory version = ips.versionOf(ipId, 1);
        assertEq(version.memberCount, type(uint32).max);
        assertEq(version.totalWeight, type(uint96).max);
        assertEq(version.pointsWeight, type(uint96).max);
        assertEq(version.purposes, type(uint32).max);
        content.manifestCid = new bytes(1);
        addVersion(ipId, content);
    }

    function testFuzz_RevertWhen_TheSignatureIsRubbish(bytes memory signature) external {
        expectAttestationInvalid(contentOf(_members), signature);
    }

    function test_RevertWhen_SomebodyElseAttested() external {
        VersionContent memory content = contentOf(_members);
        bytes32 digest = ips.digestOf(ips.datasetIdOf(provider, "voices"), 1, content);
        expectAttestationInvalid(content, sign(keyOf("stranger"), digest));
    }

    /// P16: a version's signature holds for its every field, purposes included.
    function test_RevertWhen_AnyFieldIsNotWhatWasSigned() external {
        VersionContent memory signed = contentOf(_members);
        bytes memory signature = attest(ips.datasetIdOf(provider, "voices"), 1, signed);
        for (uint256 i = 0; i < 6; ++i) {
            VersionContent memory content = contentOf(_members);
            if (i == 0) content.root = keccak256("another");
            if (i == 1) content.memberCount += 1;
            if (i == 2) content.totalWeight += 1;
            if (i == 3) content.pointsWeight += 1;
            if (i == 4) content.purposes = 1;
            if (i == 5) content.manifestCid[10] = 0;
            expectAttestationInvalid(content, signature);
        }
    }

    /// P16: nor does it hold for another dataset or provider.
    function test_RevertWhen_TheSignatureIsForAnotherDatasetOrProvider() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        VersionContent memory content = contentOf(_members);
        expectAttestationInvalid(content, attest(ips.datasetIdOf(provider, "faces"), 1, content));
        expectAttestationInvalid(content, attest(ips.datasetIdOf(stranger, "voices"), 1, content));
    }

    /// P16: nor on another chain or in another registry.
    function test_RevertWhen_TheSignatureIsForAnotherChainOrContract() external {
        VersionContent memory content = contentOf(_members);
        uint256 ipId = ips.datasetIdOf(provider, "voices");
        bytes memory signature = attest(ipId, 1, content);
        vm.chainId(1);
        expectAttestationInvalid(content, signature);
        IPRegistry other = Deploy.ipRegistry(log, consents, Deploy.renderer());
        expectAttestationInvalid(content, sign(attestorKey, other.digestOf(ipId, 1, content)));
    }

    /// P11
    function test_RevertWhen_TheAttestorWasRotated() external {
        VersionContent memory content = contentOf(_members);
        uint256 ipId = ips.datasetIdOf(provider, "voices");
        bytes memory signature = attest(ipId, 1, content);
        address next = account("next attestor");
        vm.prank(provider);
        log.setAttestor(next);
        bytes32 digest = ips.digestOf(ipId, 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, next, digest));
        vm.prank(provider);
        ips.registerDataset("voices", content, signature);

        signature = sign(keyOf("next attestor"), digest);
        vm.prank(provider);
        assertEq(ips.registerDataset("voices", content, signature), ipId);
    }

    function test_WhenTheAttestorIsAContract() external {
        (address low, address high) = (vm.addr(keyOf("a")), vm.addr(keyOf("b")));
        (uint256 lowKey, uint256 highKey) = (keyOf("a"), keyOf("b"));
        if (low > high) (low, high, lowKey, highKey) = (high, low, highKey, lowKey);
        address[] memory quorumMembers = new address[](2);
        (quorumMembers[0], quorumMembers[1]) = (low, high);
        AttestorQuorum quorum = Deploy.attestorQuorum(quorumMembers, 2);
        vm.prank(provider);
        log.setAttestor(address(quorum));

        VersionContent memory content = contentOf(_members);
        uint256 ipId = ips.datasetIdOf(provider, "voices");
        bytes32 digest = ips.digestOf(ipId, 1, content);
        bytes memory one = sign(lowKey, digest);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, address(quorum), digest));
        vm.prank(provider);
        ips.registerDataset("voices", content, one);
        vm.prank(provider);
        assertEq(ips.registerDataset("voices", content, bytes.concat(one, sign(highKey, digest))), ipId);
    }

    function test_WhenRegistered() external {
        uint256 expected = uint256(keccak256(abi.encode(provider, "voices")));
        VersionContent memory content = contentOf(_members);
        content.purposes = 5;
        bytes memory signature = attest(expected, 1, content);
        vm.expectEmit(address(ips));
        emit IIPRegistry.DatasetRegistered(expected, provider, "voices");
        vm.expectEmit(address(ips));
        emit IERC721.Transfer(address(0), provider, expected);
        vm.expectEmit(address(ips));
        emit IERC5192.Locked(expected);
        vm.expectEmit(address(ips));
        emit IIPRegistry.VersionRegistered(expected, 1, content.root, 3, 100, 50, 5, CID, attestor);
        vm.prank(provider);
        assertEq(ips.registerDataset("voices", content, signature), expected);
        assertEq(ips.ownerOf(expected), provider);
        assertEq(ips.providerOf(expected), provider);
        assertEq(ips.nameOf(expected), "voices");
        assertEq(ips.latestVersionOf(expected), 1);
        assertEq(ips.versionRootOf(expected, 1), content.root);
        Version memory version = ips.versionOf(expected, 1);
        assertEq(version.root, content.root);
        assertEq(version.memberCount, 3);
        assertEq(version.totalWeight, 100);
        assertEq(version.pointsWeight, 50);
        assertEq(version.registeredAt, NOW);
        assertEq(version.purposes, 5);
        assertFalse(version.withdrawn);
        assertEq(
            keccak256(abi.encode(ips.saleOf(expected))), keccak256(abi.encode(Sale(provider, 1, 5, false, 100, 50)))
        );
    }

    function test_WhenTwoProvidersChooseOneName_TheDatasetsAreTwo() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        uint256 first = registerNamed("voices");
        uint256 second = registerAs(stranger, "voices", contentOf(_members));
        assertTrue(first != second);
        assertEq(ips.providerOf(first), provider);
        assertEq(ips.providerOf(second), stranger);
    }

    function test_WhenUnknown_TheViewsAreEmpty() external view {
        assertEq(ips.nameOf(1), "");
        assertEq(ips.providerOf(1), address(0));
        assertEq(ips.latestVersionOf(1), 0);
        assertEq(ips.versionRootOf(1, 0), 0);
        assertEq(ips.saleOf(1).provider, address(0));
    }

    /// P16: the digest is EIP-712's over the documented type, in this chain's and registry's domain.
    function testFuzz_TheDigestIsEip712(uint256 ipId, uint32 version, VersionContent memory content) external view {
        bytes32 hash = keccak256(
            abi.encode(
                keccak256(
                    "DatasetVersion(uint256 ipId,uint32 version,bytes32 root,uint32 memberCount,uint128 totalWeight,uint128 pointsWeight,uint32 purposes,bytes manifestCid)"
                ),
                ipId,
                version,
                content.root,
                content.memberCount,
                content.totalWeight,
                content.pointsWeight,
                content.purposes,
                keccak256(content.manifestCid)
            )
        );
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("Tidemark IPRegistry"),
                keccak256("1"),
                block.chainid,
                address(ips)
            )
        );
        assertEq(ips.digestOf(ipId, version, content), keccak256(abi.encodePacked(hex"1901", domain, hash)));
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
        bytes memory signature = attest(1, 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.DatasetUnknown.selector, 1));
        vm.prank(provider);
        ips.registerVersion(1, content, signature);
    }

    /// Not even another provider with the same attestor.
    function test_RevertWhen_CallerIsNotItsProvider() external {
        registerProvider(stranger, "other", attestor, address(token), 0);
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(_ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.OnlyProvider.selector, provider, stranger));
        vm.prank(stranger);
        ips.registerVersion(_ipId, content, signature);
    }

    function test_RevertWhen_ItIsAContribution() external {
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, e, new bytes32[](0));
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ipId, 1, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.DatasetUnknown.selector, ipId));
        vm.prank(payee);
        ips.registerVersion(ipId, content, signature);
    }

    function test_RevertWhen_TheContentIsMalformed() external {
        VersionContent memory content = contentOf(_members);
        content.totalWeight = 1 << 96;
        bytes memory signature = attest(_ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionInvalid.selector));
        vm.prank(provider);
        ips.registerVersion(_ipId, content, signature);
    }

    /// P16
    function test_RevertWhen_AnEarlierVersionsAttestationIsReplayed() external {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(_ipId, 1, content);
        bytes32 digest = ips.digestOf(_ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, attestor, digest));
        vm.prank(provider);
        ips.registerVersion(_ipId, content, signature);
    }

    /// P11
    function test_RevertWhen_TheAttestorWasRotated() external {
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(_ipId, 2, content);
        vm.prank(provider);
        log.setAttestor(stranger);
        bytes32 digest = ips.digestOf(_ipId, 2, content);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.AttestationInvalid.selector, stranger, digest));
        vm.prank(provider);
        ips.registerVersion(_ipId, content, signature);
    }

    function test_WhenRegistered_OldVersionsStay() external {
        Version memory first = ips.versionOf(_ipId, 1);
        _members.pop();
        VersionContent memory content = contentOf(_members);
        content.purposes = 2;
        bytes memory signature = attest(_ipId, 2, content);
        vm.warp(NOW + 1);
        vm.expectEmit(address(ips));
        emit IIPRegistry.VersionRegistered(_ipId, 2, content.root, 2, 80, 50, 2, CID, attestor);
        vm.expectEmit(address(ips));
        emit IERC4906.MetadataUpdate(_ipId);
        vm.prank(provider);
        assertEq(ips.registerVersion(_ipId, content, signature), 2);
        assertEq(ips.latestVersionOf(_ipId), 2);
        assertEq(keccak256(abi.encode(ips.versionOf(_ipId, 1))), keccak256(abi.encode(first)));
        assertEq(ips.versionOf(_ipId, 2).memberCount, 2);
        assertEq(ips.versionOf(_ipId, 2).registeredAt, NOW + 1);
        assertEq(ips.saleOf(_ipId).version, 2);
        assertEq(ips.saleOf(_ipId).purposes, 2);
        assertEq(ips.saleOf(_ipId).totalWeight, 80);
        assertEq(ips.saleOf(_ipId).pointsWeight, 50);
    }

    function testFuzz_NumbersHaveNoGaps(uint8 count) external {
        uint32 last = 1 + uint32(bound(count, 1, 8));
        for (uint32 number = 2; number <= last; ++number) {
            assertEq(addVersion(_ipId, contentOf(_members)), number);
        }
        assertEq(ips.latestVersionOf(_ipId), last);
        assertEq(ips.versionRootOf(_ipId, last + 1), 0);
    }
}

contract MemberTest is DatasetFixture {
    /// @dev As OpenZeppelin's StandardMerkleTree hashes a leaf of these types.
    function testFuzz_TheLeafIsTheStandardTrees(Member memory member) external view {
        bytes32 inner = keccak256(
            abi.encode(member.dataId, member.contributor, member.consentId, member.payee, uint256(member.weight))
        );
        assertEq(ips.memberLeafOf(member), keccak256(bytes.concat(inner)));
    }

    function test_WhenTheProofFits_ItIsAMember() external {
        uint256 ipId = register(contentOf(_members));
        for (uint256 i = 0; i < 3; ++i) {
            assertTrue(ips.isMember(ipId, 1, _members[i], proofOf(_members, i)));
        }
    }

    function test_WhenVersionProofOrFieldIsAnother_ItIsNoMember() external {
        uint256 ipId = register(contentOf(_members));
        Member memory member = _members[0];
        assertFalse(ips.isMember(ipId, 1, member, proofOf(_members, 1)));
        assertFalse(ips.isMember(ipId, 1, member, new bytes32[](0)));
        assertFalse(ips.isMember(ipId, 2, member, proofOf(_members, 0)));
        assertFalse(ips.isMember(ipId + 1, 1, member, proofOf(_members, 0)));
        for (uint256 i = 0; i < 5; ++i) {
            member = _members[0];
            if (i == 0) member.dataId = ~member.dataId;
            if (i == 1) member.contributor = ~member.contributor;
            if (i == 2) member.consentId = ~member.consentId;
            if (i == 3) member.payee = buyer;
            if (i == 4) member.weight += 1;
            assertFalse(ips.isMember(ipId, 1, member, proofOf(_members, 0)));
        }
    }

    function testFuzz_WhenAFieldIsAnother_ItIsNoMember(Member memory member) external {
        uint256 ipId = register(contentOf(_members));
        assertFalse(ips.isMember(ipId, 1, member, proofOf(_members, 0)));
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

    function withdraw(address by) private {
        vm.prank(by);
        consents.withdraw(_consent);
    }

    function test_RevertWhen_VersionIsUnknown() external {
        bytes32[] memory proof = proofOf(_members, 0);
        withdraw(payee);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionUnknown.selector, _ipId, 2));
        ips.reportWithdrawn(_ipId, 2, _members[0], proof);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.VersionUnknown.selector, 7, 1));
        ips.reportWithdrawn(7, 1, _members[0], proof);
    }

    function test_RevertWhen_ItIsNoMember() external {
        bytes32[] memory proof = proofOf(_members, 0);
        withdraw(payee);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.MemberUnknown.selector, _ipId, 1, _members[1].dataId));
        ips.reportWithdrawn(_ipId, 1, _members[1], proof);
    }

    function test_RevertWhen_TheConsentStands() external {
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ConsentStands.selector, _members[0].consentId));
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
    }

    /// P5: anyone may report, whoever withdrew.
    function test_WhenTheConsentWasWithdrawn() external {
        withdraw(payee);
        bytes32[] memory proof = proofOf(_members, 0);
        vm.expectEmit(address(ips));
        emit IIPRegistry.VersionWithdrawn(_ipId, 1, _members[0].dataId, _members[0].consentId);
        vm.expectEmit(address(ips));
        emit IERC4906.MetadataUpdate(_ipId);
        vm.prank(stranger);
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
        assertTrue(ips.versionOf(_ipId, 1).withdrawn);
        assertTrue(ips.saleOf(_ipId).withdrawn);
    }

    function test_WhenTheProviderWithdrewIt() external {
        withdraw(provider);
        ips.reportWithdrawn(_ipId, 1, _members[0], proofOf(_members, 0));
        assertTrue(ips.versionOf(_ipId, 1).withdrawn);
    }

    function test_WhenReportedForAnOldVersion_TheNewestStays() external {
        withdraw(payee);
        bytes32[] memory proof = proofOf(_members, 0);
        Member memory member = _members[0];
        _members[0] = _members[2];
        _members.pop();
        addVersion(_ipId, contentOf(_members));
        ips.reportWithdrawn(_ipId, 1, member, proof);
        assertTrue(ips.versionOf(_ipId, 1).withdrawn);
        assertFalse(ips.versionOf(_ipId, 2).withdrawn);
        assertFalse(ips.saleOf(_ipId).withdrawn);
    }

    function test_WhenReportedTwice_NothingElseChanges() external {
        withdraw(payee);
        bytes32[] memory proof = proofOf(_members, 0);
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
        bytes32 before = keccak256(abi.encode(ips.versionOf(_ipId, 1)));
        ips.reportWithdrawn(_ipId, 1, _members[0], proof);
        assertEq(keccak256(abi.encode(ips.versionOf(_ipId, 1))), before);
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
        anchorEvents(0);
    }

    function anchorEvents(uint64 number) private {
        Batch memory batch = aBatch(number);
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

    function test_RevertWhen_TheBatchIsUnknown() external {
        bytes32[] memory path = proof(0);
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ProofInvalid.selector, provider, 1, 0));
        vm.prank(payee);
        ips.registerContribution(provider, 1, _events[0], path);
    }

    function test_RevertWhen_SomebodyMakesTheEventHisOwn() external {
        bytes32[] memory path = proof(0);
        ProvenanceEvent memory e = _events[0];
        e.payee = stranger;
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ProofInvalid.selector, provider, 0, 0));
        vm.prank(stranger);
        ips.registerContribution(provider, 0, e, path);
    }

    function test_RevertWhen_RegisteredTwice_AlsoFromAnotherBatch() external {
        bytes32[] memory path = proof(0);
        anchorEvents(1);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, _events[0], path);
        for (uint64 number = 0; number < 2; ++number) {
            vm.expectRevert(abi.encodeWithSelector(IIPRegistry.ContributionExists.selector, ipId));
            vm.prank(payee);
            ips.registerContribution(provider, number, _events[0], path);
        }
    }

    function test_WhenRegistered() external {
        bytes32[] memory path = proof(0);
        bytes16 dataId = _events[0].dataId;
        uint256 expected = uint256(keccak256(abi.encode("contribution", provider, dataId)));
        vm.expectEmit(address(ips));
        emit IIPRegistry.ContributionRegistered(expected, provider, 0, dataId, payee);
        vm.expectEmit(address(ips));
        emit IERC721.Transfer(address(0), payee, expected);
        vm.expectEmit(address(ips));
        emit IERC5192.Locked(expected);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, _events[0], path);
        assertEq(ipId, expected);
        assertEq(ips.ownerOf(ipId), payee);
        assertEq(ips.providerOf(ipId), address(0));
        assertTrue(ips.locked(ipId));
    }
}

contract IPTokenTest is DatasetFixture {
    uint256[] private _ids;
    address[] private _owners;

    /// @dev One dataset and one contribution, each with its owner.
    function setUp() public override {
        super.setUp();
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        _ids.push(register(contentOf(_members)));
        vm.prank(payee);
        _ids.push(ips.registerContribution(provider, 0, e, new bytes32[](0)));
        _owners.push(provider);
        _owners.push(payee);
    }

    function expectSoulbound(address caller, uint256 i) private {
        bytes memory revertData = abi.encodeWithSelector(IIPRegistry.Soulbound.selector, _ids[i]);
        vm.expectRevert(revertData);
        vm.prank(caller);
        ips.transferFrom(_owners[i], buyer, _ids[i]);
        vm.expectRevert(revertData);
        vm.prank(caller);
        ips.safeTransferFrom(_owners[i], buyer, _ids[i]);
        vm.expectRevert(revertData);
        vm.prank(caller);
        ips.safeTransferFrom(_owners[i], buyer, _ids[i], "data");
        vm.expectRevert(revertData);
        vm.prank(caller);
        ips.transferFrom(_owners[i], _owners[i], _ids[i]);
        assertEq(ips.ownerOf(_ids[i]), _owners[i]);
    }

    function test_RevertWhen_TheOwnerTransfers() external {
        for (uint256 i = 0; i < 2; ++i) {
            expectSoulbound(_owners[i], i);
        }
    }

    function test_RevertWhen_WhoIsApprovedTransfers() external {
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(_owners[i]);
            ips.approve(stranger, _ids[i]);
            expectSoulbound(stranger, i);
        }
    }

    function test_RevertWhen_AnOperatorTransfers() external {
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(_owners[i]);
            ips.setApprovalForAll(operator, true);
            expectSoulbound(operator, i);
        }
    }

    function test_RevertWhen_AStrangerTransfers_OrItIsBurned() external {
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, stranger, _ids[0]));
        vm.prank(stranger);
        ips.transferFrom(provider, stranger, _ids[0]);
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        vm.prank(provider);
        ips.transferFrom(provider, address(0), _ids[0]);
    }

    function testFuzz_RevertWhen_Transferred(address to) external {
        vm.assume(to != address(0));
        vm.expectRevert(abi.encodeWithSelector(IIPRegistry.Soulbound.selector, _ids[1]));
        vm.prank(payee);
        ips.transferFrom(payee, to, _ids[1]);
    }

    function test_WhenTheTokenExists_ItIsLocked() external view {
        assertTrue(ips.locked(_ids[0]));
        assertTrue(ips.locked(_ids[1]));
    }

    function test_RevertWhen_LockedIsAskedOfNoToken() external {
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 1));
        ips.locked(1);
    }

    /// ERC-165 ids as the standards print them.
    function test_SupportsItsInterfaces() external view {
        assertTrue(ips.supportsInterface(0x01ffc9a7));
        assertTrue(ips.supportsInterface(0x80ac58cd));
        assertTrue(ips.supportsInterface(0x5b5e139f));
        assertTrue(ips.supportsInterface(0x49064906));
        assertTrue(ips.supportsInterface(0xb45a3c0e));
        assertTrue(ips.supportsInterface(0xe8a3d485));
        assertTrue(ips.supportsInterface(type(IIPRegistry).interfaceId));
        assertFalse(ips.supportsInterface(0xffffffff));
        // No royalties where nothing is ever resold.
        assertFalse(ips.supportsInterface(0x2a55205a));
    }
}
