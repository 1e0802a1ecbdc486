// SPDX-License-Identifier: MIT OR Apache-2.0
// Renderer: the pages of licences, datasets, contributions and collections say everything, whatever a provider writes.
pragma solidity ^0.8.28;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {Version, VersionContent} from "../interfaces/IIPRegistry.sol";
import {LicenseView, Terms} from "../interfaces/ILicenseRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Renderer} from "../src/Renderer.sol";
import {Deploy} from "./Deploy.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";
import {PageReader} from "./Metadata.t.sol";

contract RendererTest is DatasetFixture, PageReader {
    using Strings for *;

    string private constant HOSTILE = unicode"\"</text><script>alert('x')</script>\\ & \n\t 바다";
    string private constant HOSTILE_IN_XML =
        unicode"&quot;&lt;/text&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\ &amp;    바다";

    Renderer private _renderer;

    function setUp() public override {
        super.setUp();
        _renderer = Deploy.renderer();
    }

    function licensePage(Terms memory terms) private returns (string memory json, uint256 licenseId) {
        uint256 ipId = register(contentOf(_members));
        licenseId = sell(ipId, offer(ipId, terms), terms.price);
        json = jsonOf(licenses.tokenURI(licenseId));
    }

    /// @dev The value of the trait of that name; each page has it once.
    function trait(string memory json, string memory name, uint256 i) private pure returns (string memory) {
        string memory path = string.concat(".attributes[", i.toString(), "]");
        assertEq(vm.parseJsonString(json, string.concat(path, ".trait_type")), name);
        return vm.parseJsonString(json, string.concat(path, ".value"));
    }

    function numberTrait(string memory json, string memory name, uint256 i) private pure returns (uint256) {
        string memory path = string.concat(".attributes[", i.toString(), "]");
        assertEq(vm.parseJsonString(json, string.concat(path, ".trait_type")), name);
        return vm.parseJsonUint(json, string.concat(path, ".value"));
    }

    /* LICENCES */

    function test_ALicenceSaysItsTermsInWords() external {
        Terms memory terms = someTerms();
        (string memory json,) = licensePage(terms);
        assertEq(vm.parseJsonString(json, ".name"), "Data licence 1");
        string memory holder = buyer.toChecksumHexString();
        string memory hash = uint256(terms.legalHash).toHexString(32);
        assertEq(
            vm.parseJsonString(json, ".description"),
            string.concat(
                "Status: active; Dataset: voices, version 1; Holder: ",
                holder,
                "; AI training: allowed; Purposes: train, commercial; Seats: 5; Valid from 1800000000 until 1831536000 (Unix seconds); Paid: 1000000000 token units, of which contributors 70.00 %; Transferable; the provider asks 5.00 % of a resale; Legal text: ipfs://legal; Its SHA-256: ",
                hash,
                "; Of Tidemark IP ",
                ips.datasetIdOf(provider, "voices").toHexString(32)
            )
        );
        string memory svg = svgOf(json);
        checkCard(svg, 12);
        assertTrue(contains(svg, ">AI training: allowed</text>"));
        assertTrue(contains(svg, ">Legal text: ipfs://legal</text>"));

        assertEq(trait(json, "Status", 0), "active");
        assertEq(trait(json, "Holder", 1), holder);
        assertEq(trait(json, "Dataset", 2), "voices");
        assertEq(numberTrait(json, "Version", 3), 1);
        assertEq(trait(json, "AI training", 4), "allowed");
        assertEq(trait(json, "Purposes", 5), "train, commercial");
        assertEq(numberTrait(json, "Seats", 6), 5);
        assertEq(numberTrait(json, "Starts at", 7), NOW);
        assertEq(numberTrait(json, "Ends at", 8), NOW + 365 days);
        assertEq(trait(json, "Paid", 9), "1000000000");
        assertEq(trait(json, "Contributors' part", 10), "70.00 %");
        assertEq(trait(json, "Transferable", 11), "yes");
        assertEq(trait(json, "Resale royalty", 12), "5.00 %");
        assertTrue(contains(json, string.concat('{"trait_type":"Legal text SHA-256","value":"', hash, '"}')));
        assertEq(trait(json, "IP", 14), ips.datasetIdOf(provider, "voices").toHexString(32));
        assertFalse(vm.keyExistsJson(json, ".attributes[15]"));
    }

    function test_WhenALicenceAllowsLess_ItSaysSo() external {
        Terms memory terms = someTerms();
        (terms.transferable, terms.aiTraining, terms.resaleBps) = (false, false, 0);
        terms.purposes = 0;
        (string memory json,) = licensePage(terms);
        string memory description = vm.parseJsonString(json, ".description");
        assertTrue(contains(description, "AI training: not allowed; Purposes: none;"));
        assertTrue(contains(description, "; Not transferable; "));
        assertFalse(contains(description, "resale"));
        assertEq(trait(json, "AI training", 4), "not allowed");
        assertEq(trait(json, "Transferable", 11), "no");
        assertEq(trait(json, "Resale royalty", 12), "0.00 %");
    }

    function test_WhenALicenceIsRevoked_ItSaysWhy() external {
        (, uint256 licenseId) = licensePage(someTerms());
        vm.prank(provider);
        licenses.revoke(licenseId, HOSTILE);
        string memory json = jsonOf(licenses.tokenURI(licenseId));
        assertTrue(
            contains(vm.parseJsonString(json, ".description"), string.concat("Status: revoked (", HOSTILE, "); "))
        );
        assertEq(trait(json, "Status", 0), "revoked");
        string memory svg = svgOf(json);
        checkCard(svg, 12);
        assertTrue(contains(svg, string.concat("Status: revoked (", HOSTILE_IN_XML, ")")));
    }

    function test_WhenALicenceIsRevokedWithoutACause_OrExpired() external {
        (, uint256 licenseId) = licensePage(someTerms());
        vm.warp(NOW + 365 days);
        assertTrue(contains(jsonOf(licenses.tokenURI(licenseId)), "Status: expired; "));
        vm.prank(provider);
        licenses.revoke(licenseId, "");
        assertTrue(contains(jsonOf(licenses.tokenURI(licenseId)), "Status: revoked; "));
    }

    /// A page follows its licence to the new holder.
    function test_WhenALicenceIsTransferred_ItNamesItsHolder() external {
        (, uint256 licenseId) = licensePage(someTerms());
        vm.prank(buyer);
        licenses.transferFrom(buyer, stranger, licenseId);
        assertTrue(contains(jsonOf(licenses.tokenURI(licenseId)), stranger.toChecksumHexString()));
    }

    function testFuzz_ALicencePageIsWellFormed(bytes memory uri, bytes memory dataset, bytes memory cause)
        external
        view
    {
        LicenseView memory license;
        license.status = "revoked";
        license.revocationCause = ascii(cause);
        license.terms = someTerms();
        license.terms.legalUri = ascii(uri);
        string memory json = jsonOf(_renderer.licenseURI(7, ascii(dataset), license));
        assertEq(trait(json, "Dataset", 2), string(dataset));
        string memory description = vm.parseJsonString(json, ".description");
        assertTrue(contains(description, string.concat("Legal text: ", string(uri), "; Its SHA-256")));
        if (cause.length > 0) assertTrue(contains(description, string.concat("revoked (", string(cause), ")")));
        checkCard(svgOf(json), 12);
    }

    function testFuzz_PartsArePercentages(uint16 contributorBps, uint16 resaleBps) external view {
        LicenseView memory license;
        license.terms = someTerms();
        license.terms.contributorBps = uint16(bound(contributorBps, 0, 10_000));
        license.terms.resaleBps = uint16(bound(resaleBps, 0, 10_000));
        string memory json = jsonOf(_renderer.licenseURI(7, "d", license));
        assertEq(bpsOf(trait(json, "Contributors' part", 10)), license.terms.contributorBps);
        assertEq(bpsOf(trait(json, "Resale royalty", 12)), license.terms.resaleBps);
    }

    /// @dev Reads "12.34 %": digits, two of them after the point.
    function bpsOf(string memory text) private pure returns (uint256 bps) {
        bytes memory b = bytes(text);
        assertTrue(b[b.length - 5] == "." && b[b.length - 2] == " " && b[b.length - 1] == "%");
        for (uint256 i = 0; i < b.length - 2; ++i) {
            if (i == b.length - 5) continue;
            assertTrue(b[i] >= "0" && b[i] <= "9");
            bps = 10 * bps + uint8(b[i]) - 48;
        }
    }

    /* DATASETS */

    function test_ADatasetIsReadable_WhateverItsName() external {
        VersionContent memory content = contentOf(_members);
        content.purposes = 3;
        uint256 ipId = registerAs(provider, HOSTILE, content);
        string memory json = jsonOf(ips.tokenURI(ipId));
        assertEq(vm.parseJsonString(json, ".name"), HOSTILE);
        string memory root = uint256(content.root).toHexString(32);
        assertEq(
            vm.parseJsonString(json, ".description"),
            string.concat(
                "Dataset of provider ",
                provider.toChecksumHexString(),
                "; Version 1, 3 records, registered at 1800000000 (Unix seconds); Consented purposes: train, evaluate; Root ",
                root,
                "; No withdrawn consent reported; Tidemark IP ",
                ipId.toHexString(32)
            )
        );
        string memory svg = svgOf(json);
        checkCard(svg, 6);
        assertTrue(contains(svg, HOSTILE_IN_XML));
        assertEq(trait(json, "Kind", 0), "dataset");
        assertEq(trait(json, "Provider", 1), provider.toChecksumHexString());
        assertEq(numberTrait(json, "Version", 2), 1);
        assertEq(numberTrait(json, "Records", 3), 3);
        assertEq(trait(json, "Consented purposes", 4), "train, evaluate");
        assertTrue(contains(json, string.concat('{"trait_type":"Root","value":"', root, '"}')));
        assertEq(trait(json, "Consent withdrawn", 6), "no");
        assertFalse(vm.keyExistsJson(json, ".attributes[7]"));
    }

    function test_WhenADatasetHasANewVersion_ItsPageShowsThat() external {
        uint256 ipId = register(contentOf(_members));
        _members.pop();
        VersionContent memory content = contentOf(_members);
        content.purposes = 16;
        addVersion(ipId, content);
        string memory json = jsonOf(ips.tokenURI(ipId));
        assertEq(numberTrait(json, "Version", 2), 2);
        assertEq(numberTrait(json, "Records", 3), 2);
        assertEq(trait(json, "Consented purposes", 4), "commercial");
    }

    function test_WhenAConsentWasWithdrawn_TheDatasetSaysSo() external {
        Consent memory consent;
        (consent.contributor, consent.provider) = (payee, provider);
        _members[0].consentId = consents.consentIdOf(consent);
        uint256 ipId = register(contentOf(_members));
        vm.prank(payee);
        consents.withdraw(consent);
        ips.reportWithdrawn(ipId, 1, _members[0], proofOf(_members, 0));
        string memory json = jsonOf(ips.tokenURI(ipId));
        assertTrue(contains(vm.parseJsonString(json, ".description"), "; Not for sale: a consent was withdrawn; "));
        assertEq(trait(json, "Consent withdrawn", 6), "yes");
    }

    function testFuzz_ADatasetPageIsWellFormed(bytes memory name, uint32 number, Version memory version) external view {
        string memory json = jsonOf(_renderer.datasetURI(7, ascii(name), provider, number, version));
        assertEq(vm.parseJsonString(json, ".name"), string(name));
        assertEq(numberTrait(json, "Version", 2), number);
        assertEq(numberTrait(json, "Records", 3), version.memberCount);
        checkCard(svgOf(json), 6);
    }

    /* CONTRIBUTIONS */

    function test_AContributionIsReadable() external {
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        e.dataId = 0x0123456789abcdef0f1e2d3c4b5a6978;
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, e, new bytes32[](0));
        string memory json = jsonOf(ips.tokenURI(ipId));
        assertEq(vm.parseJsonString(json, ".name"), "Contribution 01234567-89ab-cdef-0f1e-2d3c4b5a6978");
        assertEq(
            vm.parseJsonString(json, ".description"),
            string.concat(
                "Accepted by provider ",
                provider.toChecksumHexString(),
                "; Anchored in batch 0; Tidemark IP ",
                ipId.toHexString(32)
            )
        );
        checkCard(svgOf(json), 3);
        assertEq(trait(json, "Kind", 0), "contribution");
        assertEq(trait(json, "Provider", 1), provider.toChecksumHexString());
        assertEq(numberTrait(json, "Batch", 2), 0);
        assertEq(trait(json, "Data ID", 3), "01234567-89ab-cdef-0f1e-2d3c4b5a6978");
        assertFalse(vm.keyExistsJson(json, ".attributes[4]"));
    }

    function test_RevertWhen_ThereIsNoToken() external {
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 1));
        ips.tokenURI(1);
    }

    /* COLLECTIONS */

    /// ERC-7572
    function test_TheCollectionsDescribeThemselves() external view {
        string memory json = jsonOf(ips.contractURI());
        assertEq(vm.parseJsonString(json, ".name"), "Tidemark IP");
        assertEq(vm.parseJsonString(json, ".symbol"), "TIDE-IP");
        assertTrue(contains(vm.parseJsonString(json, ".description"), "never change hands"));
        json = jsonOf(licenses.contractURI());
        assertEq(vm.parseJsonString(json, ".name"), "Tidemark Licence");
        assertEq(vm.parseJsonString(json, ".symbol"), "TIDE-L");
        assertTrue(contains(vm.parseJsonString(json, ".description"), "terms in words"));
    }

    function testFuzz_ACollectionIsWellFormed(bytes memory name, bytes memory symbol, bytes memory description)
        external
        view
    {
        string memory json = jsonOf(_renderer.collectionURI(ascii(name), ascii(symbol), ascii(description)));
        assertEq(vm.parseJsonString(json, ".name"), string(name));
        assertEq(vm.parseJsonString(json, ".symbol"), string(symbol));
        assertEq(vm.parseJsonString(json, ".description"), string(description));
    }
}
