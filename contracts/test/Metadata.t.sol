// SPDX-License-Identifier: MIT OR Apache-2.0
// Metadata: what an explorer shows is JSON and SVG, whatever a provider writes into a name.
pragma solidity ^0.8.28;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Metadata} from "../src/Metadata.sol";
import {VersionContent} from "../interfaces/IIPRegistry.sol";
import {Terms} from "../interfaces/ILicenseRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {DatasetFixture} from "./IPRegistry.t.sol";

contract MetadataTest is DatasetFixture {
    string private constant JSON_PREFIX = "data:application/json;base64,";
    string private constant SVG_PREFIX = "data:image/svg+xml;base64,";

    function decoded(string memory uri, string memory prefix) private pure returns (string memory) {
        bytes memory all = bytes(uri);
        bytes memory rest = new bytes(all.length - bytes(prefix).length);
        for (uint256 i = 0; i < rest.length; ++i) {
            rest[i] = all[i + bytes(prefix).length];
        }
        return string(Base64.decode(string(rest)));
    }

    function field(string memory json, string memory key) private pure returns (string memory) {
        return abi.decode(vm.parseJson(json, key), (string));
    }

    function contains(string memory text, string memory part) private pure returns (bool) {
        (bytes memory a, bytes memory b) = (bytes(text), bytes(part));
        for (uint256 i = 0; i + b.length <= a.length; ++i) {
            uint256 j = 0;
            while (j < b.length && a[i + j] == b[j]) ++j;
            if (j == b.length) return true;
        }
        return false;
    }

    function test_PurposesInWords() external pure {
        assertEq(Metadata.purposesInWords(0), "none");
        assertEq(Metadata.purposesInWords(1), "train");
        assertEq(Metadata.purposesInWords(31), "train, evaluate, fine-tune, redistribute, commercial");
        assertEq(Metadata.purposesInWords(1 << 7), "none");
    }

    function test_Uuid() external pure {
        assertEq(Metadata.uuid(0x0123456789abcdef0f1e2d3c4b5a6978), "01234567-89ab-cdef-0f1e-2d3c4b5a6978");
    }

    function test_EscapeXML() external pure {
        assertEq(
            Metadata.escapeXML(unicode"<a href=\"x\">'&'\n바다</a>"),
            unicode"&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39; 바다&lt;/a&gt;"
        );
    }

    function test_DatasetIsReadable_WhateverItsName() external {
        string memory name = unicode"\"</text>\\ & 바다";
        uint256 ipId = ips.datasetIdOf(provider, name);
        VersionContent memory content = contentOf(_members);
        bytes memory signature = attest(ipId, 1, content);
        vm.prank(provider);
        ips.registerDataset(name, content, signature);

        string memory json = decoded(ips.tokenURI(ipId), JSON_PREFIX);
        assertEq(field(json, ".name"), name);
        assertEq(field(json, ".attributes[0].value"), "dataset");
        string memory svg = decoded(field(json, ".image"), SVG_PREFIX);
        assertTrue(contains(svg, unicode"&quot;&lt;/text&gt;\\ &amp; 바다"));
        assertTrue(contains(svg, "Version 1, 3 records"));
    }

    function test_ContributionIsReadable() external {
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        vm.prank(payee);
        uint256 ipId = ips.registerContribution(provider, 0, e, new bytes32[](0));
        string memory json = decoded(ips.tokenURI(ipId), JSON_PREFIX);
        assertEq(field(json, ".name"), string.concat("Contribution ", Metadata.uuid(e.dataId)));
    }

    function test_LicenceSaysItsTermsInWords() external {
        uint256 ipId = register(contentOf(_members));
        Terms memory terms = someTerms();
        uint256 licenseId = sell(ipId, offer(ipId, terms), terms.price);
        string memory json = decoded(licenses.tokenURI(licenseId), JSON_PREFIX);
        assertEq(field(json, ".name"), "Data licence 1");
        string memory svg = decoded(field(json, ".image"), SVG_PREFIX);
        assertTrue(contains(svg, "Status: active"));
        assertTrue(contains(svg, "Dataset: voices, version 1"));
        assertTrue(contains(svg, "AI training: allowed"));
        assertTrue(contains(svg, "Purposes: train, commercial"));
        assertTrue(contains(svg, "until 1831536000 (Unix seconds)"));

        vm.prank(provider);
        licenses.revoke(licenseId, "resold");
        json = decoded(licenses.tokenURI(licenseId), JSON_PREFIX);
        assertTrue(contains(field(json, ".description"), "Status: revoked (resold)"));
    }
}
